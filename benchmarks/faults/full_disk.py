"""Disks that are full, folders that are read-only or no folders: what was there stays, and the error names the place.

Full: a limit on the size of files (the system's own `RLIMIT_FSIZE`), at `count` sizes up to that of what is saved, in a
process of its own. Read-only and without permission: the calls that would change the folder fail with EROFS or EACCES,
since tests may run as root, whom no permission stops. Whole runs are begun in such places as well.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults import runs
from benchmarks.faults.calls import EVERY, watching
from benchmarks.faults.nursery import Nursery, at_hand
from benchmarks.faults.saves import BY_NAME, SUBJECTS, Subject, afresh, litter, room, wrong
from petune.errors import CheckpointError, PetuneError

COUNT = 24
REFUSED, SAVED, OBSCURE = 10, 0, 11


def run(count: int, seed: int) -> dict[str, Any]:
    """`count` sizes of a full disk for each kind of save; nothing is drawn, so `seed` changes nothing."""
    nursery, found = at_hand(), {}
    with room() as place:
        for subject in SUBJECTS:
            found[subject.name] = _saves(nursery, Path(place) / subject.name, subject, count)
        found["run"] = _runs(Path(place))
    return {**found, "failures": sum(counts["failures"] for counts in found.values())}


def save_within(name: str, folder: str, limit: int) -> None:
    """Saves the newer generation where no file may be longer than `limit` bytes; the status tells what came of it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the write fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(_outcome(Path(folder), BY_NAME[name]))


def save_refused(name: str, folder: str, code: int) -> None:
    """Saves where every call that changes something fails."""

    def refuse(call: str, given: tuple[Any, ...]) -> None:
        if call != "open" or given[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(code, os.strerror(code), given[0] if not isinstance(given[0], int) else None)

    with watching(Path(folder), at=EVERY, fault=refuse, names=("open", "mkdir", "replace", "rename")):
        status = _outcome(Path(folder), BY_NAME[name])
    sys.exit(status)


def _outcome(folder: Path, subject: Subject) -> int:
    try:
        subject.save(folder, 1)
    except PetuneError as error:
        return REFUSED if str(folder) in str(error) and error.fix else OBSCURE
    except BaseException:
        return OBSCURE
    return SAVED


def _saves(nursery: Nursery, folder: Path, subject: Subject, count: int) -> dict[str, Any]:
    """Each fault of one kind of save."""
    counts: Counter[str] = Counter(full=0, read_only=0, refused_old_intact=0, saved=0, failures=0)
    told = []
    afresh(folder, subject, 1)
    largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    faults = [("full", "save_within", largest * step // count) for step in range(count)]
    faults += [("read_only", "save_refused", code) for code in (errno.EROFS, errno.EACCES, errno.EPERM)]
    for kind, work, how in faults:
        afresh(folder, subject)
        ended = nursery.run(f"benchmarks.faults.full_disk:{work}", subject.name, str(folder), how)
        counts[kind] += 1
        counts["refused_old_intact" if ended == REFUSED else "saved"] += 1
        what = wrong(lambda: subject.state(folder), (1,) if ended == SAVED else (0,))
        if what is None and (ended not in (REFUSED, SAVED) or litter(folder)):
            what = f"it ended with {ended} and left {litter(folder)}"
        counts["failures"] += what is not None
        told += [f"{kind} {how}: {what}"] if what else []
    return {**counts, "told": told[:5]}


def _runs(place: Path) -> dict[str, Any]:
    """Runs whose folder is a file, lies beneath one, or where none can be made."""
    counts: Counter[str] = Counter(runs=0, refused=0, failures=0)
    told = []
    (place / "file").write_bytes(b"")
    folders = [place / "file", place / "file" / "beneath"]
    if sys.platform == "linux":
        folders.append(Path("/proc/no/such/place"))
    for folder in folders:
        counts["runs"] += 1
        try:
            runs.fit("lora", folder, epochs=1)
            told.append(f"{folder}: nothing was said")
        except CheckpointError as error:
            counts["refused"] += 1
            if str(folder) not in str(error):
                told.append(f"{folder}: {error}")
    counts["failures"] = len(told)
    return {**counts, "told": told[:5]}
