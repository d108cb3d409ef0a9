"""The store: thousands of adapters on disk, some of them resident; loaded on first use, the least used leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from petune.errors import AdapterError, AdapterFileError, ConfigError, PetuneError, RouteError
from petune.lookup import near
from petune.model.bank import Bank, Contents
from petune.storage import shelf
from petune.storage.capacity import Capacity
from petune.storage.flights import Flights
from petune.storage.folders import Folders, Places
from petune.storage.residency import Residency, Statistics
from petune.storage.whereabouts import ADAPTER


class Brought(NamedTuple):
    """What `bring` gives back.

    Args:
        contents: the bank when all of them were there. A call that runs on it is not disturbed by who leaves later;
            it keeps everybody in it alive, so let go of it when the call ends.
        failures: name -> why it could not be loaded; only the requests of that name fail.
        names: the others, which are all in `contents`.
    """

    contents: Contents
    failures: dict[str, PetuneError]
    names: tuple[str, ...]


class AdapterStore:
    """Adapters on disk that are loaded on first use, and leave when others need their place.

    What holds, whatever the threads do:

    - An adapter is read once into private memory and verified in full before it is resident. A file that changes on
      disk is not noticed by itself, and cannot harm what was loaded; `refresh` reads it again.
    - Requests of one name that come together cause one load. Loads of different names run side by side. A name that
      failed is tried anew when it is asked for again.
    - While no `bring`, `pin` or `refresh` runs, at most `resident` are kept. A running one keeps its own names in
      place until it ends, so n of them at once may keep n times as much for that while.
    - What leaves stays alive for the calls that run on it; its memory is given back when the last of them ends.
    - Pinned adapters do not leave. Nor do residents that were added to the model by hand: those are not the store's,
      they take none of its room, and they come before an adapter of the same name on disk.

    Args:
        folders: a directory whose sub-directories are adapter folders, a list of adapter folders (called by the last
            part of their paths), or a mapping of names to folders. Nothing is read yet.
        resident: how many adapters are kept; or bytes with a unit, such as `"200MB"`, heads included.

    Raises:
        ConfigError: no such directory, two folders of one name, or no capacity.

    Examples:
        >>> from petune import TrainConfig, Tuner
        >>> from petune.model.backbone import Backbone
        >>> tuner = Tuner(backbone).fit(rows, config=TrainConfig(epochs=1, progress="off"))
        >>> folders = {name: tuner.save(f"{backbone}/../{name}") for name in ("mood", "topic")}
        >>> store = AdapterStore(folders, resident=1).bind(Bank(Backbone.open(backbone)))
        >>> store.bring(["mood"]).names, store.bring(["topic"]).names
        (('mood',), ('topic',))
        >>> store.resident, store.statistics.evictions
        (('topic',), 1)
    """

    def __init__(self, folders: Places, resident: int | str = 64) -> None:
        self.capacity = Capacity.of(resident)
        self._folders = Folders(folders)
        self._bound: Residency | None = None
        self._on_load: Callable[[shelf.Taken], Any] | None = None
        self._flights: Flights[PetuneError | None] = Flights()

    def bind(self, bank: Bank, on_load: Callable[[shelf.Taken], Any] | None = None) -> AdapterStore:
        """Makes the store serve a model.

        Args:
            on_load: is shown what came off the shelf, tokenizer included, just before the adapter is resident; it may
                run in several threads at once.

        Raises:
            ConfigError: it serves another model already.
        """
        if self._bound is not None and self._bound.bank is not bank:
            raise ConfigError(
                "The store serves another model already.",
                expected="One store serves one model.",
                fix="Make an AdapterStore for each; they may share their folders.",
            )
        if self._bound is None:
            self._bound = Residency(bank, self.capacity)
        self._on_load = on_load
        return self

    @property
    def _residency(self) -> Residency:
        if self._bound is None:
            raise ConfigError("The store serves no model yet.", fix="Pass it: AdaptedModel(backbone, store=store).")
        return self._bound

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters on disk, as it is now, sorted."""
        return self._folders.names()

    @property
    def resident(self) -> tuple[str, ...]:
        """The store's adapters that are resident, the least recently used first."""
        return () if self._bound is None else self._bound.names()

    @property
    def pinned(self) -> tuple[str, ...]:
        """The pinned names, sorted."""
        return () if self._bound is None else tuple(sorted(self._bound.pinned.copy()))

    @property
    def statistics(self) -> Statistics:
        """The counts as they are now."""
        return Statistics() if self._bound is None else self._bound.statistics()

    def folder_of(self, name: str) -> Path:
        """Where an adapter lies.

        Raises:
            RouteError: no such adapter on disk; the near names are suggested.
        """
        return self._folders.find(name)

    def bring(self, names: Iterable[str]) -> Brought:
        """Makes adapters resident, reading those that are not, and gives back a snapshot in which all of them are.

        Raises:
            RouteError: more names than fit at once; `portions` brings them part by part. (A name that is unknown is
                a RouteError too, but among the failures.)
            ConfigError: the store serves no model yet.
        """
        wanted, failures = _distinct(names), dict[str, PetuneError]()
        home = self._residency
        home.refuse_too_many(wanted)
        with home.needing(wanted):
            missing, contents = home.look(wanted, count=True)
            while missing:
                for name in missing:
                    if (error := self._load(name)) is not None:
                        failures[name] = error
                    home.refuse_too_many(wanted)  # with bytes, only now is it known
                # What was removed by hand in the meantime is missing still.
                missing, contents = home.look(name for name in wanted if name not in failures)
            return Brought(contents, failures, tuple(name for name in wanted if name not in failures))

    def portions(self, names: Iterable[str]) -> Iterator[Brought]:
        """Brings any number of adapters, in their order and as many at once as fit.

        Raises:
            RouteError: not one of them fits beside the pinned ones.
        """
        left = list(_distinct(names))
        while left:
            count = self._fitting(left)
            try:
                brought = self.bring(left[:count])
            except RouteError:
                if count == 1:
                    raise
                continue  # some were larger than their files let expect; now their sizes are known
            yield brought
            left = left[count:]

    def pin(self, *names: str) -> AdapterStore:
        """Loads adapters and keeps them resident; all of them, or none when one cannot be loaded.

        Raises:
            RouteError: unknown names, or more than fit.
            AdapterFileError: one cannot be loaded.
        """
        home = self._residency
        with home.needing(names):
            for error in self.bring(names).failures.values():
                raise error
            with home.lock:
                home.pinned.update(names)
        return self

    def unpin(self, *names: str) -> AdapterStore:
        """Lets adapters leave again when they are the least used.

        Raises:
            RouteError: one of them is not pinned.
        """
        home = self._residency
        with home.lock:
            for name in names:
                if name not in home.pinned:
                    raise RouteError(f"{name!r} is not pinned.", fix=near(name, home.pinned))
            home.pinned.difference_update(names)
        return self

    def refresh(self, name: str) -> AdapterStore:
        """Reads an adapter again and puts it in the old one's place in one step; running calls keep the old one.

        Raises:
            RouteError: no such adapter on disk.
            AdapterFileError: what is on disk cannot be loaded; the old one goes on serving.
            AdapterError: a resident of that name was added to the model by hand.
        """
        home = self._residency
        if name in home.bank.residents and not home.is_mine(name):
            raise AdapterError(
                f"{name!r} was added to the model by hand.",
                expected="The store refreshes the adapters that it loaded itself.",
                fix="Replace it on the model: replace(name, folder).",
            )
        with home.needing((name,)):
            if (error := self._load(name, anew=True)) is not None:
                raise error
        return self

    def _load(self, name: str, *, anew: bool = False) -> PetuneError | None:
        """Makes one adapter resident, or waits for the thread that is at it; gives back what went wrong."""
        return self._flights.once(name, lambda: self._try(name, anew), anew=anew)

    def _try(self, name: str, anew: bool) -> PetuneError | None:
        """Reads one adapter; what is wrong with its folder concerns those who asked for it alone."""
        home = self._residency
        if not anew and name in home.bank.residents:
            return None  # another thread had finished between our look and now
        try:
            folder = self.folder_of(name)
        except RouteError as error:
            return error
        try:
            home.admit(self._take(name, folder))
        except Exception as error:
            with home.lock:
                home.counted.failures += 1
            return error if isinstance(error, PetuneError) else _unforeseen(name, folder, error)
        return None

    def _take(self, name: str, folder: Path) -> Any:
        """The verified adapter, not resident yet."""
        bank = self._residency.bank
        bank.refuse_while_merged("load an adapter")
        taken = shelf.take(folder, bank.backbone, name, share=True, refuse=partial(shelf.refuse_unshared, name))
        if self._on_load is not None:
            self._on_load(taken)
        return taken.adapter

    def _fitting(self, names: list[str]) -> int:
        """How many names from the front fit at once; at least one."""
        home, count = self._residency, 1
        needed, capacity = home.needed(names[:1]), self.capacity
        size = sum(map(self._size, needed)) if capacity.bytes is not None else 0
        for name in names[1:]:
            more = home.needed((name,)) - needed
            size += sum(map(self._size, more)) if capacity.bytes is not None else 0
            if not capacity.holds(len(needed) + len(more), size):
                break
            needed, count = needed | more, count + 1
        return count

    def _size(self, name: str) -> int:
        """Bytes that an adapter takes; before its first load, the most that its file lets expect."""
        known = self._residency.sizes.get(name)
        if known is not None:
            return known
        try:
            return 2 * (self.folder_of(name) / ADAPTER).stat().st_size  # padding to the bucket less than doubles it
        except (OSError, RouteError):
            return 0


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([names] if isinstance(names, str) else names))


def _unforeseen(name: str, folder: Path, cause: Exception) -> AdapterFileError:
    """The error for what no check of a file foresaw."""
    error = AdapterFileError(
        f"The adapter {name!r} in {folder} could not be loaded ({type(cause).__name__}: {cause}).",
        expected="A folder that petune or peft wrote.",
        fix="Save it again.",
    )
    error.__cause__ = cause
    return error
