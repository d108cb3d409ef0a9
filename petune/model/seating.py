"""Seats: where the layers of resident adapters lie in the stacks, and who holds them.

A call keeps the seats of its adapters while it runs. A seat that nobody holds any more, neither the bank nor a call,
gives its slots back, so no slot is written while somebody reads it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from petune.methods.base import AdapterLayer
from petune.model.adapter import Adapter
from petune.model.stacks import Lane, Stack, key_of, width_of

Lanes = Mapping[str, tuple[Lane, ...]]
"""Site path -> what lies there."""


class Seat:
    """One resident adapter's place.

    Args:
        column: of the table of slots.
        slots: stack number -> slot.
        ragged: bits of the stacks in which it is narrower than the bucket.
        loose: path -> layers that are not stacked: head parts inside the backbone, layers of other packages.
    """

    def __init__(
        self, adapter: Adapter, column: int, slots: dict[int, int], ragged: int, loose: dict[str, AdapterLayer],
        freed: deque[tuple[int, dict[int, int]]],
    ) -> None:  # fmt: skip
        self.adapter, self.column, self.slots, self.ragged, self.loose = adapter, column, slots, ragged, loose
        self.mask = sum(1 << number for number in slots)
        self._freed = freed

    def __del__(self) -> None:
        # Only noted: this may run anywhere, also inside of the code that hands out slots.
        self._freed.append((self.column, self.slots))


class Chart(NamedTuple):
    """What a call sees of the seating; it is replaced, never changed in what a running call reads.

    Args:
        lanes: site path -> lanes.
        table: (stacks, columns) int64, the slot of each seat in each stack; -1: none.
        attention: bits of the stacks that hold prefixes.
    """

    lanes: Lanes
    table: Tensor
    attention: int


class Seating:
    """Every stack of a bank, and the table that says which slot is whose.

    Args:
        adapters: for which there shall be just enough room.
    """

    def __init__(self, device: torch.device, adapters: Iterable[Adapter] = ()) -> None:
        self.device = device
        self._expected = Counter(
            (path, key_of(layer)) for adapter in adapters for path, layer in _stackable(adapter).items()
        )
        self._stacks: list[Stack] = []
        self._at: dict[str, dict[Hashable, Stack]] = {}
        self._table = torch.full((0, 0), -1, dtype=torch.int64, device=device)
        self._columns: list[int] = []
        self._freed: deque[tuple[int, dict[int, int]]] = deque()
        self._attention = 0

    def seat(self, adapter: Adapter) -> Seat:
        """Gives an adapter its slots; its parameters become views of them."""
        self._reclaim()
        slots: dict[int, int] = {}
        ragged = 0
        loose: dict[str, AdapterLayer] = dict(adapter.shell.overlays)
        kinds = {site.path: site.kind for site in adapter.body.sites}
        loose |= {path: layer for path, layer in adapter.body.layers.items() if not layer.inner}
        try:
            for path, layer in _stackable(adapter).items():
                stack = self._stack(path, layer, attention=kinds[path] == "attention")
                slots[stack.number] = stack.put(layer)
                if width_of(layer) < stack.lane.bucket:
                    ragged |= 1 << stack.number
        except BaseException:  # out of memory
            for number, slot in slots.items():
                self._stacks[number].free(slot)
            raise
        for parameter in adapter.shell.head().values():
            parameter.requires_grad_(False)
        column = self._column()
        self._table[:, column] = torch.tensor([slots.get(n, -1) for n in range(len(self._table))], device=self.device)
        return Seat(adapter, column, slots, ragged, loose, self._freed)

    def chart(self) -> Chart:
        """What a call that starts now may see."""
        lanes = {path: tuple(stack.lane for stack in stacks.values()) for path, stacks in self._at.items()}
        return Chart(lanes, self._table, self._attention)

    @property
    def used_bytes(self) -> int:
        """Of the slots in use, padding included."""
        self._reclaim()
        return sum(stack.used_bytes for stack in self._stacks)

    @property
    def allocated_bytes(self) -> int:
        """Of all slots."""
        return sum(stack.allocated_bytes for stack in self._stacks)

    def _stack(self, path: str, layer: AdapterLayer, *, attention: bool) -> Stack:
        """The stack of a layer's kind at a site; made when it is the first."""
        here, key = self._at.setdefault(path, {}), key_of(layer)
        stack = here.get(key)
        if stack is None:
            room = max(1, self._expected[path, key])
            stack = here[key] = Stack(len(self._stacks), layer, self.device, room)
            self._stacks.append(stack)
            self._attention |= attention << stack.number
        return stack

    def _column(self) -> int:
        """A free column of the table, which has a row for every stack. Calls that run keep the table they saw."""
        rows, columns = self._table.shape
        if len(self._stacks) > rows or not self._columns:
            more = 0 if self._columns else max(8, columns)
            table = self._table.new_full((max(len(self._stacks), rows), columns + more), -1)
            table[:rows, :columns] = self._table
            self._table = table
            self._columns += range(columns + more - 1, columns - 1, -1)
        return self._columns.pop()

    def _reclaim(self) -> None:
        """Takes back what the seats that are gone have left."""
        while self._freed:
            column, slots = self._freed.popleft()
            self._table[:, column] = -1
            self._columns.append(column)
            for number, slot in slots.items():
                self._stacks[number].free(slot)


def _stackable(adapter: Adapter) -> dict[str, AdapterLayer]:
    """Site path -> the layers that have a place in stacks; a site of rank 0 has no change."""
    return {path: layer for path, layer in adapter.body.layers.items() if layer.inner and width_of(layer)}
