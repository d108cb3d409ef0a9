"""Residency: which of a store's adapters are in the bank, who must stay, and who leaves next."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from petune.errors import AdapterError, MergeError, RouteError
from petune.model.adapter import Adapter
from petune.model.bank import Bank, Contents
from petune.storage.capacity import Capacity, bytes_of

ROOM = 2.1
"""Allocated over used bytes of the stacks, above which they are compacted."""


@dataclasses.dataclass
class Statistics:
    """Counted since the store was bound.

    Args:
        hits: requests of a name that was resident already.
        loads: adapters that were read and made resident.
        evictions: adapters that had to leave.
        failures: reads that failed; those who waited for one are not counted again.
        bytes: of the store's residents now, heads included.
    """

    hits: int = 0
    loads: int = 0
    evictions: int = 0
    failures: int = 0
    bytes: int = 0


class _Kept(NamedTuple):
    adapter: Adapter
    bytes: int


class Residency:
    """The store's residents of one bank. Its lock is held for changes of the bank, never while a file is read."""

    def __init__(self, bank: Bank, capacity: Capacity) -> None:
        self.bank, self.capacity = bank, capacity
        self.counted = Statistics()
        self.pinned: set[str] = set()
        self.sizes: dict[str, int] = {}
        """Bytes of every adapter that was ever loaded."""
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        """The least recently used first."""
        self._since = 0
        """Loads since the stacks were looked at."""
        self._busy: Counter[str] = Counter()
        """Names that running calls need."""
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """For copies: they have a lock of their own, and no call runs on them."""
        with self.lock:
            copied = {"pinned": set(self.pinned), "sizes": dict(self.sizes), "_kept": self._kept.copy()}
            return {**self.__dict__, **copied, "lock": None, "_busy": Counter()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = threading.RLock()

    @contextmanager
    def needing(self, names: Iterable[str]) -> Iterator[None]:
        """Inside, none of these leaves; afterwards the store is within its capacity again."""
        wanted = tuple(names)
        with self.lock:
            self._busy.update(wanted)
        try:
            yield
        finally:
            with self.lock:
                self._busy -= Counter(wanted)
                self._make_room()

    def names(self) -> tuple[str, ...]:
        """The store's residents, the least recently used first."""
        with self.lock:
            return tuple(name for name in self._kept if self.is_mine(name))

    def statistics(self) -> Statistics:
        """A copy of the counts, as they are now."""
        with self.lock:
            return dataclasses.replace(self.counted, bytes=sum(self._kept[name].bytes for name in self.names()))

    def is_mine(self, name: str) -> bool:
        """Whether a resident is the one that the store put there, and not one that was added by hand."""
        kept = self._kept.get(name)
        return kept is not None and self.bank.residents.get(name) is kept.adapter

    def look(self, names: Iterable[str], *, count: bool = False) -> tuple[list[str], Contents]:
        """Which names are not resident, and who is; those that are count as used now."""
        with self.lock:
            contents, missing = self.bank.contents, []
            for name in names:
                if name not in contents.adapters:
                    missing.append(name)
                    continue
                self.counted.hits += count
                if name in self._kept:
                    self._kept.move_to_end(name)
            return missing, contents

    def needed(self, wanted: Iterable[str]) -> set[str]:
        """The wanted and the pinned names that take the store's room: not those that were added by hand."""
        with self.lock:
            residents = self.bank.residents
            return {name for name in (*wanted, *self.pinned) if name not in residents or self.is_mine(name)}

    def refuse_too_many(self, wanted: tuple[str, ...]) -> None:
        """Raises RouteError where a call's names and the pinned ones are more than the store keeps."""
        needed = self.needed(wanted)
        size = sum(self.sizes.get(name, 0) for name in needed)
        if not self.capacity.holds(len(needed), size):
            beside = ", the pinned ones included" if len(needed) > len(wanted) else ""
            told = f" ({size:,} bytes)" if self.capacity.bytes is not None else ""
            raise RouteError(
                f"The call needs {len(needed)} adapters at once{told}{beside}.",
                expected=f"The store keeps {self.capacity} resident.",
                fix="Name fewer in one call, unpin some, or make the store with a larger resident=.",
            )

    def admit(self, adapter: Adapter) -> None:
        """Makes an adapter resident, in one step; others leave first, so that their slots can be taken.

        Raises:
            AdapterError: it is larger than the store.
            MergeError: while merged.
        """
        size, name = bytes_of(adapter), adapter.name
        if not self.capacity.holds(1, size):
            raise AdapterError(
                f"The adapter {name!r} takes {size:,} bytes.",
                expected=f"The store keeps {self.capacity} resident.",
                fix="Make the store with a larger resident=.",
            )
        with self.lock, self.bank.steady:
            if name in self.bank.residents and not self.is_mine(name):
                return  # added by hand in the meantime: that one stays
            if name not in self._kept:
                self._make_room(1, size)
            self.bank.seat(adapter)
            self._kept[name] = _Kept(adapter, size)
            self._kept.move_to_end(name)
            self.sizes[name] = size
            self.counted.loads += 1
            self._tidy()

    def _bytes(self) -> int:
        return sum(kept.bytes for kept in self._kept.values())

    def _make_room(self, more: int = 0, size: int = 0) -> None:
        """Lets the least recently used leave until there is room; those that are pinned or needed stay."""
        if self.capacity.holds(len(self._kept) + more, self._bytes() + size):
            return
        for name in list(self._kept):
            with self.bank.steady:  # between the look and the removal nobody puts another one there
                mine = self.is_mine(name)
                if mine and (name in self.pinned or self._busy[name]):
                    continue
                try:
                    if mine:
                        self.bank.remove(name)
                        self.counted.evictions += 1
                except MergeError:
                    return  # nobody leaves while one is merged; a later call makes the room
            del self._kept[name]
            if self.capacity.holds(len(self._kept) + more, self._bytes() + size):
                return

    def _tidy(self) -> None:
        """Compacts the stacks when other kinds of adapters have left too much of them empty.

        Compacting costs about as much as seating all residents, so it is done once per that many loads at most.
        """
        self._since += 1
        if self._since < len(self._kept):
            return
        self._since = 0
        if self.bank.allocated_bytes > ROOM * self.bank.used_bytes:
            self.bank.compact()
