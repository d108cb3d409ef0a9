"""Heads without their backbone: a shell calls a stand-in, which hands back an output that was made elsewhere.

So the backbone runs once for a batch with many adapters, and transformers' own code of each head runs on its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class Captured(Exception):
    """Carries the arguments with which a shell called its backbone."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call = Call(args, kwargs)


class Call(NamedTuple):
    """The arguments of one backbone call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_supply: ContextVar[Any] = ContextVar("petune_supply", default=None)


@contextmanager
def supplying(output: Any) -> Iterator[None]:
    """Inside, a supplied shell's backbone returns `output`."""
    token = _supply.set(output)
    try:
        yield
    finally:
        _supply.reset(token)


class Supplied(nn.Module):
    """Stands where the backbone stood, and returns what was computed already."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.config = base.config
        self._stacks = {
            name for name, child in base.named_children() if isinstance(child, transformers.PreTrainedModel)
        }

    def __getattr__(self, name: str) -> Any:
        """A stack inside the backbone, which some heads call in its place (OPT's), takes and gives the same."""
        return self if name in self.__dict__.get("_stacks", ()) else super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = _supply.get()
        if output is None:
            raise Captured(args, kwargs)
        return output


class SuppliedStack(Supplied):
    """The same for one stack of a model that keeps its encoder and decoder side by side."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=output.last_hidden_state)


def rows_of(output: Any, rows: Tensor, batch: int) -> Any:
    """The rows of a backbone's output: every tensor whose leading axis is the batch is cut, in nested forms too."""
    if isinstance(output, Tensor):
        return output[rows] if output.dim() and output.shape[0] == batch else output
    if isinstance(output, dict):
        cut = {key: rows_of(value, rows, batch) for key, value in output.items() if not _is_cache(value)}
        return type(output)(**cut)
    if isinstance(output, tuple | list):
        return type(output)(rows_of(value, rows, batch) for value in output)
    return output


def _is_cache(value: Any) -> bool:
    """Key-value caches are of no use to a head."""
    return isinstance(value, transformers.Cache)
