"""A power cut after every system call of a save, in a model of what a disk may then have lost.

What was not flushed may be there or not: each change of a folder on its own and in any order (a rename is one change),
and of each file everything, nothing, half, or zeros in the place of its bytes. After each call every state that this
allows for one change at a time, for all, for none, and some drawn ones, are put on a disk and read.

A failure is a state that is neither generation, or after the save has returned not the newer one; and an exposed file:
one that has its final name before its bytes are flushed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.calls import Call, watching
from benchmarks.faults.saves import SUBJECTS, Subject, room, wrong

COUNT = 20
"""Drawn subsets of the changes that are pending, per call."""
MODES = ("all", "none", "half", "zeros")
"""What has become of the bytes that were not flushed."""


class File:
    """What a program sees of a file, and what is surely on the disk."""

    def __init__(self, data: bytes = b"", flushed: bytes = b"") -> None:
        self.data, self.flushed = data, flushed

    def after(self, mode: str) -> bytes:
        """Its bytes after a cut."""
        if mode == "all" or self.data == self.flushed:
            return self.data
        rest = self.data[len(self.flushed) :]
        return self.flushed + {"none": b"", "half": rest[: len(rest) // 2], "zeros": bytes(len(rest))}[mode]


class Folder:
    """Names now, and names that are surely on the disk."""

    def __init__(self) -> None:
        self.now: dict[str, Any] = {}
        self.flushed: dict[str, Any] = {}


Change = tuple[Folder, dict[str, Any]]
"""Name -> what it is from then on; None: nothing."""


class Disk:
    """A folder tree, fed with system calls."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, _from_disk(root)
        self.pending: list[Change] = []

    def feed(self, call: Call) -> None:
        """What a call does to the tree."""
        if call.name in ("look", "close", "chmod"):
            return
        folder, name = self._place(call.path)
        if call.name == "open":
            if name not in folder.now:
                self._change(folder, {name: File()})
        elif call.name == "mkdir":
            self._change(folder, {name: Folder()})
        elif call.name == "write":
            folder.now[name].data += call.data
        elif call.name in ("rename", "replace"):
            other, to = self._place(call.other)
            assert other is folder, "a rename from folder to folder is no single change"
            self._change(folder, {name: None, to: folder.now[name]})
        elif call.name in ("unlink", "remove", "rmdir"):
            if name in folder.now:
                self._change(folder, {name: None})
        elif call.name == "fsync":
            self._flush(folder.now[name] if name else self.top)
        else:
            raise AssertionError(f"The model knows no {call.name}.")

    def exposed(self) -> list[str]:
        """Files that have their final name, and bytes that are not flushed."""
        return [name for name, file in _files(self.top) if ".tmp" not in name and file.data != file.flushed]

    def write(self, place: Path, changes: list[Change], mode: str) -> None:
        """Puts the tree on a real disk as it is after a cut that has let some changes through."""
        shutil.rmtree(place, ignore_errors=True)
        _put(self.top, place, changes, mode)

    def _place(self, path: str) -> tuple[Folder, str]:
        parts = Path(path).relative_to(self.root).parts
        folder = self.top
        for part in parts[:-1]:
            folder = folder.now[part]
        return folder, parts[-1] if parts else ""

    def _change(self, folder: Folder, names: dict[str, Any]) -> None:
        self.pending.append((folder, names))
        _apply(folder.now, names)

    def _flush(self, what: File | Folder) -> None:
        if isinstance(what, File):
            what.flushed = what.data
            return
        what.flushed = dict(what.now)
        self.pending = [change for change in self.pending if change[0] is not what]


def run(count: int, seed: int) -> dict[str, Any]:
    """Cuts the power after every call of a save over an older one, and of a first save into a new folder."""
    draw, found = random.Random(seed), {}
    with room() as place:
        for subject in SUBJECTS:
            for fresh in (False, True):
                name = f"first_{subject.name}" if fresh else subject.name
                found[name] = _cuts(Path(place) / name, subject, fresh, count, draw)
    return {**found, "failures": sum(counts["failures"] for counts in found.values())}


def _cuts(root: Path, subject: Subject, fresh: bool, count: int, draw: random.Random) -> dict[str, Any]:
    """Every state after every call of one save."""
    folder = root / "new" / "folder" if fresh else root / "there"
    root.mkdir()
    if not fresh:
        subject.save(folder, 0)
    disk = Disk(root)
    with watching(root) as calls:
        subject.save(folder, 1)
    told, states, exposed = [f"past the functions in hand: {what}" for what in calls.unseen], 0, 0
    copy = root.with_name(f"{root.name}-after")
    place = copy / folder.relative_to(root)
    for number, call in enumerate([Call("look", str(root)), *calls.made]):
        disk.feed(call)
        exposed += len(disk.exposed())
        saved = number == len(calls.made)
        for changes in _subsets(disk.pending, count, draw):
            for mode in MODES:
                disk.write(copy, changes, mode)
                states += 1
                if fresh and not saved and not _has_any(place, subject):
                    continue
                what = wrong(lambda: subject.state(place), (1,) if saved or fresh else (0, 1))
                if what is not None:
                    told.append(f"after call {number} ({call.name} {Path(call.path).name}), {mode}: {what}")
    return {
        "calls": len(calls.made),
        "flushes": sum(call.name == "fsync" for call in calls.made),
        "states": states,
        "exposed_files": exposed,
        "failures": len(told) + exposed,
        "told": told[:5],
    }


def _has_any(folder: Path, subject: Subject) -> bool:
    """Whether something has its final name: the first save has begun to show."""
    name = "adapter_model.safetensors" if subject.name == "adapter" else "checkpoint-*"
    return any(folder.glob(name))


def _subsets(pending: list[Change], count: int, draw: random.Random) -> Iterator[list[Change]]:
    """None, all, the first so many, each alone, and some drawn ones; in the order in which they were made."""
    seen: set[tuple[int, ...]] = set()
    whole = range(len(pending))
    wanted = [tuple(whole[:end]) for end in range(len(pending) + 1)] + [(one,) for one in whole]
    wanted += [tuple(one for one in whole if draw.random() < 0.5) for _ in range(count)]
    for chosen in wanted:
        if chosen not in seen:
            seen.add(chosen)
            yield [pending[one] for one in chosen]


def _apply(names: dict[str, Any], change: dict[str, Any]) -> None:
    for name, what in change.items():
        if what is None:
            names.pop(name, None)
        else:
            names[name] = what


def _from_disk(place: Path) -> Folder:
    """A folder all of which is flushed."""
    made = Folder()
    for path in place.iterdir():
        made.now[path.name] = _from_disk(path) if path.is_dir() else File(path.read_bytes(), path.read_bytes())
    made.flushed = dict(made.now)
    return made


def _files(folder: Folder, prefix: str = "") -> Iterator[tuple[str, File]]:
    for name, what in folder.now.items():
        if isinstance(what, Folder):
            yield from _files(what, f"{prefix}{name}/")
        else:
            yield prefix + name, what


def _put(folder: Folder, place: Path, changes: list[Change], mode: str) -> None:
    place.mkdir()
    names = dict(folder.flushed)
    for changed, change in changes:
        if changed is folder:
            _apply(names, change)
    for name, what in names.items():
        if isinstance(what, Folder):
            _put(what, place / name, changes, mode)
        else:
            (place / name).write_bytes(what.after(mode))
