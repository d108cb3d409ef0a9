"""Which adapter serves which row of one call. The route travels with the call, never with the model.

A context variable holds the current `Frame`: an exception or another thread cannot leak one caller's adapter into
the next call. A frame is a snapshot taken when the call starts; residents that come, go or are replaced later do not
touch it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from petune.errors import RouteError
from petune.methods._stacking import Own
from petune.model.intercepting import of_calls
from petune.model.stacks import Lane

if TYPE_CHECKING:
    from petune.model.adapter import Adapter
    from petune.model.seating import Chart, Seat

Route = str | None | Sequence[str | None] | Sequence[Sequence[str | None]]
"""One name for all rows, None for the bare backbone, or one of these per row, or (packed input) per token of a row."""


class Group(NamedTuple):
    """The rows that one adapter serves; `rows` None means all of them."""

    adapter: Adapter
    rows: Tensor | None


class Frame:
    """One call: who serves which row, and what the taps of a site hand to each other on the way.

    Args:
        owner: the bank whose taps may read this frame; the taps of other banks ignore it.
        groups: rows by adapter, for adapters in training: their layers are called on their own rows.
        batch: B, known for per-row routes, so that a site with another leading axis is refused.
        route: as it was asked for.
        chart: where the layers of resident adapters lie; with it `seats`.
        seats: one for each row (None: the bare backbone), or a single one for all rows.
        tokens: (B, T) where the route names an adapter per token; then `batch` is B * T.
    """

    def __init__(
        self,
        owner: object,
        groups: tuple[Group, ...] = (),
        batch: int | None = None,
        route: Route = None,
        *,
        chart: Chart | None = None,
        seats: tuple[Seat | None, ...] = (),
        tokens: tuple[int, int] | None = None,
    ) -> None:
        self.owner, self.batch, self.route, self.tokens = owner, batch, route, tokens
        self.merged: str | None = None
        """The adapter that was merged in when this frame was made."""
        self.per_row = batch is not None
        self._live, self._chart, self._seats = groups, chart, seats
        self.seen: dict[tuple[str, int], Any] = {}
        """(Site path, thread) -> what entered there."""
        self._lanes = chart.lanes if chart is not None else {}
        taken = set(seats)
        self._one = next(iter(taken)) if len(taken) == 1 else None
        """The seat of all rows, where they have but one; its weights need no gathering."""
        self._some, self._all, self._ragged = 0, -1, 0
        for seat in taken:
            self._some |= 0 if seat is None else seat.mask
            self._all &= 0 if seat is None else seat.mask
            self._ragged |= 0 if seat is None else seat.ragged
        self._subsets: dict[int, Tensor] = {}
        self._loose = self._live or any(seat is not None and seat.loose for seat in taken)
        self.active = bool(groups) or any(seat is not None for seat in taken)
        """Whether any adapter acts in this call."""

    def fresh(self) -> Frame:
        """The same route for another call."""
        made = Frame.__new__(Frame)
        made.__dict__.update(self.__dict__)
        made.seen = {}
        return made

    def without_adapters(self) -> Frame:
        """For the route that is merged in: the weights do it all."""
        made = Frame(self.owner, (), self.batch, self.route, tokens=self.tokens)
        made.merged = self.merged
        return made

    def serves_only(self, name: str) -> bool:
        """Whether this adapter serves every row, whether it was named once or for each of them."""
        groups = self.groups
        return len(groups) == 1 and groups[0].rows is None and groups[0].adapter.name == name

    def expanded(self, times: int) -> Frame:
        """Each row's adapter for `times` rows that follow each other, as beam search repeats its inputs."""
        if self.batch is None or times == 1:
            return self.fresh()
        copies = torch.arange(times)
        groups = tuple(
            Group(g.adapter, None if g.rows is None else (g.rows[:, None] * times + copies.to(g.rows.device)).flatten())
            for g in self._live
        )
        route: Any = [entry for entry in self.route or () for _ in range(times)]
        seats = tuple(seat for seat in self._seats for _ in range(times))
        made = Frame(self.owner, groups, self.batch * times, route, chart=self._chart, seats=seats)
        made.merged = self.merged
        return made

    def only(self, groups: Sequence[Group]) -> Frame:
        """The same call with the adapters of these groups alone; other rows see the bare backbone."""
        kept = {id(group.adapter) for group in groups}
        live = tuple(group for group in self._live if id(group.adapter) in kept)
        seats = tuple(seat if seat is not None and id(seat.adapter) in kept else None for seat in self._seats)
        return Frame(self.owner, live, self.batch, self.route, chart=self._chart, seats=seats, tokens=self.tokens)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Every adapter of this call with its rows, in the order of their first rows."""
        rows: dict[Seat, list[int]] = {}
        for index, seat in enumerate(self._seats):
            if seat is not None:
                rows.setdefault(seat, []).append(index)
        whole = self._one is not None
        return (*self._live, *(Group(seat.adapter, None if whole else self._tensor(at)) for seat, at in rows.items()))

    def refuse_other_batch(self, rows: int) -> None:
        """Raises RouteError when a route per row, or per token of each row, is not as long as the batch."""
        named = self.batch if self.tokens is None else self.tokens[0]
        if named is not None and named != rows:
            raise RouteError(
                f"The route names {named} rows, the batch has {rows}.",
                expected="A route per row needs one entry for each row.",
            )

    def layers(self, path: str) -> list[tuple[nn.Module, Tensor | None]]:
        """The layers that are called one by one at a site in this call, each with its rows."""
        if not self._loose:
            return []
        found = [(group.adapter.at(path), group.rows) for group in self._live]
        seated = {id(seat.adapter): seat.loose.get(path) for seat in self._seats if seat is not None and seat.loose}
        found += [(seated[id(g.adapter)], g.rows) for g in self.groups if id(g.adapter) in seated]
        return [(layer, rows) for layer, rows in found if layer is not None]

    def stacked(self, path: str) -> Iterator[tuple[Lane, Own, Tensor | None]]:
        """The stacks that act at a site in this call: the weights of their rows, and which rows (None: all)."""
        for lane in self._lanes.get(path, ()):
            if not self._some >> lane.number & 1:
                continue
            if self._one is not None:
                yield lane, lane.one(self._one.slots[lane.number]), None
            elif self._all >> lane.number & 1:
                slots, start = self._slots
                yield lane, lane.rows(slots[lane.number], start.get(lane.number), self.batch), None
            else:
                rows = self._rows(1 << lane.number)
                yield lane, lane.rows(self._slots[0][lane.number].index_select(0, rows)), rows

    def widths(self, path: str) -> list[int]:
        """The inner size of each row's layers at a site, over all its stacks; 0 where a row has none."""
        found = [0] * len(self._seats)
        for lane in self._lanes.get(path, ()):
            for row, seat in enumerate(self._seats):
                if seat is not None and lane.number in seat.slots:
                    found[row] = lane.widths[seat.slots[lane.number]]
        return found

    def served(self, path: str) -> Tensor | None:
        """The rows for which some stack acts at a site; None: all of them."""
        numbers = [lane.number for lane in self._lanes.get(path, ()) if self._some >> lane.number & 1]
        if self._one is not None and numbers:
            return None
        bits = sum(1 << number for number in numbers)
        rows = self._rows(bits)
        return None if 0 < len(rows) == len(self._seats) else rows

    @property
    def live(self) -> list[Adapter]:
        """The adapters that are not seated: their layers are called as they are."""
        return [group.adapter for group in self._live]

    @property
    def is_single(self) -> bool:
        """Whether one seat serves all rows."""
        return self._one is not None

    def is_ragged(self, lane: Lane) -> bool:
        """Whether some row of this call is narrower than the bucket of a stack."""
        return bool(self._ragged >> lane.number & 1)

    @property
    def attends(self) -> bool:
        """Whether a prefix acts anywhere in this call."""
        return self._chart is not None and bool(self._some & self._chart.attention)

    @cached_property
    def _slots(self) -> tuple[tuple[Tensor, ...], dict[int, int]]:
        """Stack number -> (B,) slots; found for all sites at once, when the first one asks. And the first slot of those
        stacks in which the rows' slots follow each other, so that nothing needs to be gathered."""
        assert self._chart is not None
        # A row without adapter takes any column: stacks in which rows are missing are asked for the others only.
        columns = self._tensor([0 if seat is None else seat.column for seat in self._seats])
        slots = self._chart.table.index_select(1, columns)
        if slots.is_cuda:  # to look at them would make the host wait
            return slots.unbind(0), {}
        steady = (slots[:, 1:] - slots[:, :-1] == 1).all(1).nonzero().flatten().tolist()
        return slots.unbind(0), {number: int(slots[number, 0]) for number in steady}

    def _rows(self, bits: int) -> Tensor:
        """The rows that have a slot in one of these stacks."""
        if bits not in self._subsets:
            at = [row for row, seat in enumerate(self._seats) if seat is not None and seat.mask & bits]
            self._subsets[bits] = self._tensor(at)
        return self._subsets[bits]

    def _tensor(self, values: list[int]) -> Tensor:
        device = None if self._chart is None else self._chart.table.device
        return torch.tensor(values, dtype=torch.int64, device=device)

    def apply(self, path: str, x: Tensor, y: Tensor) -> Tensor:
        """The new output of a site: each row by its own adapter's layer; other rows keep their bits.

        Raises:
            RouteError: a per-row route at a site whose leading axis is not the batch.
        """
        for lane, own, rows in self.stacked(path):
            by_row = rows is None and x.dim() == y.dim() == 3 and x.size(0) == y.size(0) == self.batch
            if self._one is not None or by_row:
                y = lane.layer.routed(own, x, y)
                continue
            x_rows, y_rows = _with_tokens(self._by_row(path, x)), _with_tokens(self._by_row(path, y))
            y = _put(rows, functools.partial(lane.layer.routed, own), x_rows, y_rows).reshape(y.shape)
        for layer, rows in self.layers(path):
            if rows is None:
                y = layer(x, y)
            else:
                y = _put(rows, layer, self._by_row(path, x), self._by_row(path, y)).reshape(y.shape)
        return y

    def _by_row(self, path: str, value: Tensor) -> Tensor:
        """Rows first, then their tokens: a map that saw (B * T, D) is cut back into rows."""
        width = value.shape[-1]
        if self.tokens is not None and value.shape[:-1] in (self.tokens, (self.batch,)):
            return value.reshape(-1, 1, width)
        if self.tokens is None and value.shape[0] == self.batch:
            return value
        if self.tokens is None and self.batch and value.dim() == 2 and value.shape[0] % self.batch == 0:
            return value.reshape(self.batch, -1, width)
        raise RouteError(
            f"A batch of {self.batch} rows with several adapters met a {tuple(value.shape)} input at {path!r}.",
            expected="There, the leading axis is not the batch (DeBERTa projects its relative positions so).",
            fix="Send each adapter's rows in a call of their own, or train the adapters without that site.",
        )


def _with_tokens(value: Tensor) -> Tensor:
    """(B, D) as (B, 1, D): one token a row."""
    return value.unsqueeze(1) if value.dim() == 2 else value


def _put(rows: Tensor | None, layer: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """y with the given rows (None: all) as a layer makes them; other rows keep their bits."""
    if rows is None:
        return layer(x, y)
    return y.index_copy(0, rows, layer(x.index_select(0, rows), y.index_select(0, rows)).to(y.dtype))


FrameOrNone = TypeVar("FrameOrNone", bound=Frame | None)
_current: ContextVar[Frame | None] = of_calls("petune_frame", None)


def current(owner: object) -> Frame | None:
    """The frame of the running call, if it is `owner`'s."""
    frame = _current.get()
    return frame if frame is not None and frame.owner is owner else None


def any_frame() -> Frame | None:
    """The frame of the running call, whoever owns it."""
    return _current.get()


@contextmanager
def entered(frame: FrameOrNone) -> Iterator[FrameOrNone]:
    """Makes a frame the current one; None means: no adapter at all."""
    token = _current.set(frame)
    try:
        yield frame
    finally:
        _current.reset(token)
