"""kill -9 while saving over something good, and each system call of a save failing.

random: a process saves on and on and is killed at a random moment, `count` times. every_call: a save is killed before
its first, second, ... last system call. A failure is a folder that holds neither generation whole.

every_error: each call of a save fails, with each of `ERRORS`. A failure is that the older generation is gone or the
newer one torn, an error that does not name the place, and an error for what is saved.

Afterwards the next save must work and leave no temporary file.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults.calls import CHANGING, LOOKING, die, failing, watching
from benchmarks.faults.nursery import Nursery, at_hand
from benchmarks.faults.saves import BY_NAME, SUBJECTS, Subject, afresh, litter, room, wrong
from petune.errors import PetuneError

COUNT = 200
LONGEST_SECONDS = 0.08
"""A kill comes at most this long after the first save has begun: some saves later."""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS, errno.EACCES)
MANY = 100
"""A `count` below which only the first two errors are tried."""


def run(count: int, seed: int) -> dict[str, Any]:
    """`count` random kills for each kind of save; every call of each is killed and fails once with each error."""
    draw, found = random.Random(seed), {}
    nursery = at_hand()
    with room() as place:
        for subject in SUBJECTS:
            folder = Path(place) / subject.name
            counts = {
                "random": _random_kills(nursery, folder, subject, count, draw),
                "every_call": _kills_at_every_call(nursery, folder, subject),
                "every_error": _errors_at_every_call(folder, subject, ERRORS if count >= MANY else ERRORS[:2]),
            }
            found[subject.name] = counts
    failures = sum(part["failures"] for counts in found.values() for part in counts.values())
    return {**found, "failures": failures}


def warm_up() -> None:
    """The first save of a process imports a good deal."""
    with room() as place:
        for subject in SUBJECTS:
            afresh(Path(place) / subject.name, subject)


def save_on(name: str, folder: str) -> None:
    """Saves the two generations in turns until it is killed."""
    number = 0
    while True:
        number = 1 - number
        BY_NAME[name].save(Path(folder), number)


def save_until(name: str, folder: str, at: int) -> None:
    """Saves the newer generation and is dead before system call number `at`."""
    with watching(Path(folder), at=at, fault=die):
        BY_NAME[name].save(Path(folder), 1)


def _random_kills(nursery: Nursery, folder: Path, subject: Subject, count: int, draw: random.Random) -> dict[str, Any]:
    counts: Counter[str] = Counter(kills=0, old=0, new=0, left_files_behind=0, failures=0)
    told = []
    for _ in range(count):
        afresh(folder, subject)
        pid = nursery.start("benchmarks.faults.saving_kills:save_on", subject.name, str(folder))
        time.sleep(draw.uniform(0.0, LONGEST_SECONDS))
        os.kill(pid, signal.SIGKILL)
        assert nursery.wait() == -signal.SIGKILL
        counts["left_files_behind"] += bool(litter(folder))
        told += _judged(folder, subject, counts)
    return {**counts, "told": told[:5]}


def _kills_at_every_call(nursery: Nursery, folder: Path, subject: Subject) -> dict[str, Any]:
    counts: Counter[str] = Counter(kills=0, old=0, new=0, left_files_behind=0, failures=0)
    afresh(folder, subject)
    with watching(folder) as calls:
        subject.save(folder, 1)
    told = [f"past the functions in hand: {what}" for what in calls.unseen]
    counts["failures"] += len(told)
    for at in range(len(calls.made)):
        afresh(folder, subject)
        ended = nursery.run("benchmarks.faults.saving_kills:save_until", subject.name, str(folder), at)
        assert ended == -signal.SIGKILL, f"call {at} of {len(calls.made)} did not come"
        counts["left_files_behind"] += bool(litter(folder))
        told += _judged(folder, subject, counts)
    return {"calls": len(calls.made), **counts, "told": told[:5]}


def _judged(folder: Path, subject: Subject, counts: Counter[str]) -> list[str]:
    """Counts what a kill has left: the old one, the new one, or a failure; and whether the next save is a good one."""
    counts["kills"] += 1
    what = wrong(lambda: subject.state(folder))
    if what is None:
        counts["new" if subject.state(folder) else "old"] += 1
        what = _next_save(folder, subject)
    counts["failures"] += what is not None
    return [] if what is None else [what]


def _next_save(folder: Path, subject: Subject) -> str | None:
    """What is wrong with the save after a fault."""
    subject.save(folder, 1)
    return wrong(lambda: subject.state(folder), (1,)) or (f"left: {litter(folder)}" if litter(folder) else None)


def _errors_at_every_call(folder: Path, subject: Subject, errors: tuple[int, ...]) -> dict[str, Any]:
    """Each call that changes something, and each that looks, fails with each error."""
    counts: Counter[str] = Counter(errors=0, refused_old_intact=0, saved=0, saved_with_a_warning=0, failures=0)
    told, names = [], CHANGING + LOOKING
    afresh(folder, subject)
    with watching(folder, names=names) as calls:
        subject.save(folder, 1)
    for code in errors:
        for at, call in enumerate(calls.made):
            afresh(folder, subject)
            counts["errors"] += 1
            kind, what = _one_error(folder, subject, at, code, names)
            counts[kind] += 1
            if what is not None:
                told.append(f"{errno.errorcode[code]} at {at} ({call.name} {Path(call.path).name}): {what}")
                counts["failures"] += 1
    return {"calls": len(calls.made), **counts, "told": told[:20]}


def _one_error(folder: Path, subject: Subject, at: int, code: int, names: tuple[str, ...]) -> tuple[str, str | None]:
    """What became of a save of which one call fails, and what is wrong with that."""
    refusal: Exception | None = None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with watching(folder, at=at, fault=failing(code), names=names):
                subject.save(folder, 1)
        except Exception as error:
            refusal = error
    if refusal is None:
        what = wrong(lambda: subject.state(folder), (1,)) or _next_save(folder, subject)
        return "saved_with_a_warning" if warned else "saved", what
    what = wrong(lambda: subject.state(folder), (0,)) or _next_save(folder, subject)
    if not isinstance(refusal, PetuneError) or str(folder) not in str(refusal):
        what = f"{type(refusal).__name__}: {refusal}"
    return "refused_old_intact", what
