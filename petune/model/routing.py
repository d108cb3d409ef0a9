"""Which adapter serves which row of one call. The route travels with the call, never with the model.

A context variable holds the current `Frame`: an exception or another thread cannot leak one caller's adapter into
the next call. A frame is a snapshot taken when the call starts; residents that come or go later do not touch it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from petune.errors import RouteError

if TYPE_CHECKING:
    from petune.model.adapter import Adapter

Route = str | None | Sequence[str | None]
"""One name for all rows, None for the bare backbone, or one of these per row."""


class Group(NamedTuple):
    """The rows that one adapter serves; `rows` None means all of them."""

    adapter: Adapter
    rows: Tensor | None


class Frame:
    """One call: who serves which row, and what the taps of a site hand to each other on the way.

    Args:
        owner: the bank whose taps may read this frame; the taps of other banks ignore it.
        groups: rows by adapter; rows in no group see the bare backbone.
        batch: B, known for per-row routes, so that a site with another leading axis is refused.
    """

    def __init__(self, owner: object, groups: tuple[Group, ...], batch: int | None = None, route: Route = None) -> None:
        self.owner, self.groups, self.batch, self.route = owner, groups, batch, route
        self.per_row = batch is not None
        self.seen: dict[str, Any] = {}

    def fresh(self) -> Frame:
        """The same route for another call."""
        return Frame(self.owner, self.groups, self.batch, self.route)

    def layers(self, path: str) -> list[tuple[nn.Module, Tensor | None]]:
        """The layers that act at a site in this call, each with its rows."""
        found = ((group.adapter.at(path), group.rows) for group in self.groups)
        return [(layer, rows) for layer, rows in found if layer is not None]

    def apply(self, path: str, x: Tensor, y: Tensor) -> Tensor:
        """The new output of a site: each adapter's layer on its own rows; other rows keep their bits.

        Raises:
            RouteError: a per-row route at a site whose leading axis is not the batch.
        """
        for layer, rows in self.layers(path):
            if rows is None:
                y = layer(x, y)
            else:
                x_rows, y_rows = self._by_row(path, x), self._by_row(path, y)
                new = y_rows.index_copy(0, rows, layer(x_rows[rows], y_rows[rows]).to(y.dtype))
                y = new.reshape(y.shape)
        return y

    def _by_row(self, path: str, value: Tensor) -> Tensor:
        """Rows first: a map that saw (B * T, D) is cut back into rows."""
        if value.shape[0] == self.batch:
            return value
        if self.batch and value.dim() == 2 and value.shape[0] % self.batch == 0:
            return value.reshape(self.batch, -1, value.shape[-1])
        raise RouteError(
            f"A batch of {self.batch} rows with several adapters met a {tuple(value.shape)} input at {path!r}.",
            expected="There, the leading axis is not the batch (DeBERTa projects its relative positions so).",
            fix="Send each adapter's rows in a call of their own, or train the adapters without that site.",
        )


_current: ContextVar[Frame | None] = ContextVar("petune_frame", default=None)


def current(owner: object) -> Frame | None:
    """The frame of the running call, if it is `owner`'s."""
    frame = _current.get()
    return frame if frame is not None and frame.owner is owner else None


def any_frame() -> Frame | None:
    """The frame of the running call, whoever owns it."""
    return _current.get()


@contextmanager
def entered(frame: Frame | None) -> Iterator[None]:
    """Makes a frame the current one; None means: no adapter at all."""
    token = _current.set(frame)
    try:
        yield
    finally:
        _current.reset(token)


def make_frame(owner: object, route: Route, find: Callable[[str], Adapter], device: torch.device) -> Frame:
    """Turns names into a frame; unknown names are errors before any work is done.

    Args:
        find: name -> resident adapter; raises RouteError for a name that is not resident.

    Raises:
        RouteError: unknown names, or a route that is neither a name, None nor a sequence of them.
    """
    if route is None:
        return Frame(owner, ())
    if isinstance(route, str):
        return Frame(owner, (Group(find(route), None),), route=route)
    names = list(route)
    wrong = next((name for name in names if name is not None and not isinstance(name, str)), None)
    if wrong is not None or not names:
        raise RouteError(
            f"A route cannot hold {wrong!r}." if names else "The route is empty.",
            expected="A route is a name, None, or one of these per row.",
        )
    groups = []
    for name in dict.fromkeys(name for name in names if name is not None):
        rows = [index for index, at in enumerate(names) if at == name]
        groups.append(Group(find(name), None if len(rows) == len(names) else torch.tensor(rows, device=device)))
    return Frame(owner, tuple(groups), len(names), names)


def checkpoint_contexts() -> tuple[Any, Any]:
    """For `torch.utils.checkpoint(context_fn=...)`: the recomputation, which may run after the call has ended or in
    another thread, enters the frame of the call again."""
    return entered(_current.get()), entered(_current.get())
