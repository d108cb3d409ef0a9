"""Taps: what listens at a site and hands the call's rows to their layers. The backbone's modules stay as they are.

Under `torch.compile` the hooks are traced. A graph of a call without gradients holds one opaque operator per site (see
`opaque`), one of a learner that is known beforehand its layers (see `compiled_learning`). Any other graph ends at a
site, so that the layers run as they always do.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident, local
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from petune.errors import BackboneError
from petune.methods.base import Site
from petune.model import opaque
from petune.model.own_rows import hidden
from petune.model.routing import current


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _aside(hook: Callable[..., Any], *given: Any) -> Any:
    """A hook as it runs without compilation; the graph ends before it, and another one begins after it."""
    return hook(*given)


class Changes:
    """How often taps came or went, in this process; torch does not look whether a module's hooks are the same."""

    number = 0


class Tap:
    """Forward hooks at one output site, for one bank. Hooks are bound methods, so a deep copy re-binds them."""

    def __init__(self, owner: object, site: Site) -> None:
        self.owner, self.path = owner, site.path
        self.apart = site.input is not site.output or site.kind == "rows"
        self.hides = site.kind == "rows"
        self._number, self._passing = opaque.numbered(self), local()
        self.handles: list[RemovableHandle] = []
        self.learning: nn.Module | None = None
        """The one layer that learns here, while compiled code of its learner may be entered (`compiled_learning`)."""
        try:
            if self.apart:
                self.handles.append(site.input.register_forward_pre_hook(self.note, with_kwargs=True))
            self.handles.append(site.output.register_forward_hook(self.act, with_kwargs=True))
        except (RuntimeError, AttributeError) as error:  # ScriptModules and the like take no such hooks
            self.detach()
            raise BackboneError(
                f"The module {site.path!r} ({type(site.output).__name__}) cannot be hooked: {error}.",
                expected="petune acts through forward hooks.",
                fix="Load the backbone as a plain, unscripted transformers model.",
            ) from error
        Changes.number += 1

    def __getstate__(self) -> dict[str, Any]:
        """What a deep copy is made of; it gets a number of its own."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_number", "_passing")}
        return {**kept, "learning": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._number, self._passing = opaque.numbered(self), local()

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        """Keeps x for `act`, when input and output belong to two modules; or when it must not reach the module as it
        is, because pieces in it stand for rows of an adapter's own."""
        if torch.compiler.is_compiling():
            # What the tracer sees stored here it hands on inside the graph.
            self._passing.x = _first(args, kwargs or {})
            return None
        frame = current(self.owner)
        if frame is not None and kwargs is not None:
            # By thread: tasks that run at once under a copied context share the frame that they were started in.
            x = frame.seen[self.path, get_ident()] = _first(args, kwargs)
            if self.hides and frame.active:
                return _with_first(args, kwargs, hidden(frame, self.path, x))
        return None

    def act(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Tensor | None = None) -> Any:
        """Replaces the module's output where an adapter of this call acts here.

        A tap may come or go while a call of another adapter is at its module. torch then forgets that it takes
        keywords, or calls only one of its two hooks; nobody in that call acts here, so the output stays.
        """
        if output is None:
            return None
        x = self._passed() if self.apart else _first(args, kwargs)
        if not torch.compiler.is_compiling():
            return self.changed(x, output)
        if x is not None and self.learning is not None and torch.is_grad_enabled():
            return self.learning(x, output)
        if x is None or torch.is_grad_enabled():
            return _aside(self.changed, x, output)
        opaque.act(x, output, self._number)
        return None

    def changed(self, x: Tensor | None, y: Tensor) -> Tensor | None:
        """What the adapters of the running call make of y, (..., d_out); None: nobody acts here.

        Args:
            x: (..., d_in), unless `note` has kept it.
        """
        frame = current(self.owner)
        if frame is None or not frame.active:
            return None
        frame.owner.refuse_while_merged("use an adapter")  # type: ignore[attr-defined]
        if self.apart:
            x = frame.seen.pop((self.path, get_ident()), x)
        return None if x is None else frame.apply(self.path, x, y)

    def _passed(self) -> Tensor | None:
        """x as compiled code hands it on: inside one graph, or from one to the next in the same thread."""
        x: Tensor | None = getattr(self._passing, "x", None)
        self._passing.x = None
        return x

    def detach(self) -> None:
        """Takes the hooks away."""
        for handle in self.handles:
            handle.remove()
        Changes.number += 1


def strip(model: nn.Module) -> None:
    """Takes every tap off a copied model, whichever bank's it is: the copy is plain again."""
    for hooks, extra, key, _ in _hooked(model):
        del hooks[key]
        extra.pop(key, None)


NOTES = "transformers.utils.output_capturing"
"""Where the hooks come from that a model puts on its own blocks once somebody asks for hidden states."""


def foreign_hooks(module: nn.Module) -> list[Any]:
    """The forward hooks of one module that are no taps, nor transformers' own, which only take notes."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    others = (hook for hook in hooks if getattr(hook, "__module__", None) != NOTES)
    return [hook for hook in others if not isinstance(getattr(hook, "__self__", None), Tap)]


def taps_of(model: nn.Module) -> list[Tap]:
    """Every tap on a model, whichever bank's it is."""
    return [tap for _, _, _, tap in _hooked(model)]


def _hooked(model: nn.Module) -> list[tuple[dict[int, Any], dict[int, bool], int, Tap]]:
    """The hooks that are taps: where they are kept, under which key, and the tap."""
    return [
        (hooks, extra, key, tap)
        for module in model.modules()
        for hooks, extra in (
            (module._forward_hooks, module._forward_hooks_with_kwargs),
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        )
        for key, hook in hooks.items()
        if isinstance(tap := getattr(hook, "__self__", None), Tap)
    ]


def _with_first(args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The module's arguments with another input."""
    return ((x, *args[1:]), kwargs) if args else ((), {**kwargs, next(iter(kwargs)): x})


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The module's input, however it was passed."""
    found: Tensor = args[0] if args else next(iter(kwargs.values()))
    return found
