"""Calls of a backbone's modules, intercepted for a while: instance attributes in front of their `forward`.

Module tree, classes and state_dict stay untouched. What stands in front is called in every thread, so it asks a context
variable whether the running call is one of its own, and lets every other go its usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from threading import Lock
from typing import Any

from torch import nn

Forward = Callable[..., Any]


@contextmanager
def intercepting(modules: Sequence[nn.Module], before: Callable[[int, Forward], Forward]) -> Iterator[None]:
    """Calls of the modules go to what `before` makes; several may intercept the same ones, the last comes first.

    They may leave in any order, as fits in several threads do: one that leaves below another only lets calls through.

    Args:
        before: index of the module and its present forward -> what is called instead. A bound method, so that a deep
            copy re-binds it.
    """
    taken: list[tuple[nn.Module, _Layer]] = []
    try:
        for index, module in enumerate(modules):
            with _changing:
                layer = _Layer(module.__dict__.get("forward"), module.forward, before(index, module.forward))
                module.__dict__["forward"] = layer.forward
            taken.append((module, layer))
        yield
    finally:
        for module, layer in reversed(taken):
            with _changing:
                layer.forward_to = layer.inner
                layer.gone = True
                _uncover(module)


_changing = Lock()


class _Layer:
    """One interceptor of one module.

    Args:
        covered: the instance attribute that was there before; None: there was none.
        inner: what a call would go to without it.
        forward_to: what a call goes to.
    """

    def __init__(self, covered: Forward | None, inner: Forward, forward_to: Forward) -> None:
        self.covered, self.inner, self.forward_to, self.gone = covered, inner, forward_to, False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The call, passed on."""
        return self.forward_to(*args, **kwargs)


def _uncover(module: nn.Module) -> None:
    """Takes the interceptors off a module that are gone and under no other."""
    while isinstance(top := getattr(module.__dict__.get("forward"), "__self__", None), _Layer) and top.gone:
        if top.covered is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = top.covered


@contextmanager
def saying(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """A context variable has this value for a while, in this thread."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


OF_CALLS: list[ContextVar[Any]] = []
"""What a call is told, and what a recomputation of a part of it must find again."""


def of_calls(name: str, default: Any) -> ContextVar[Any]:
    """A context variable that says something of the running call, such as its route."""
    OF_CALLS.append(ContextVar(name, default=default))
    return OF_CALLS[-1]


def checkpoint_contexts() -> tuple[Again, Again]:
    """For `torch.utils.checkpoint(context_fn=...)`: the recomputation, which may run after the call has ended or in
    another thread, finds what the call was told."""
    return Again(), Again()


class Again:
    """What the running call was told, once more."""

    def __init__(self) -> None:
        self._kept = [(variable, variable.get()) for variable in OF_CALLS]
        self._tokens: list[tuple[ContextVar[Any], Token[Any]]] = []

    def __enter__(self) -> None:
        self._tokens = [(variable, variable.set(value)) for variable, value in self._kept]

    def __exit__(self, *error: object) -> None:
        for variable, token in reversed(self._tokens):
            variable.reset(token)
