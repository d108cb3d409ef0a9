"""Readers that load while a writer saves on and on: each load is one whole generation.

It loads until the folder has changed during `count` of the loads. A failure is a load that is neither generation, or an
error.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults.nursery import Nursery, at_hand
from benchmarks.faults.saves import SUBJECTS, Subject, afresh, room, wrong

COUNT = 300
MOST = 100
"""Loads for each that is raced, after which the harness gives up."""


def run(count: int, seed: int) -> dict[str, Any]:
    """`count` raced loads of each kind; nothing is drawn, so `seed` changes nothing."""
    found: dict[str, Any] = {}
    nursery = at_hand()
    with room() as place:
        for subject in SUBJECTS:
            found[subject.name] = _race(nursery, Path(place) / subject.name, subject, count)
    return {**found, "failures": sum(counts["failures"] for counts in found.values())}


def _race(nursery: Nursery, folder: Path, subject: Subject, count: int) -> dict[str, Any]:
    """Loads beside one writer."""
    afresh(folder, subject)
    counts: Counter[str] = Counter(loads=0, changed_meanwhile=0, failures=0)
    told = []
    pid = nursery.start("benchmarks.faults.saving_kills:save_on", subject.name, str(folder))
    for _ in range(MOST * count):
        before = _names(folder)
        what = wrong(lambda: subject.state(folder))
        counts["loads"] += 1
        counts["changed_meanwhile"] += _names(folder) != before
        counts["failures"] += what is not None
        told += [what] if what else []
        if counts["changed_meanwhile"] == count:
            break
    os.kill(pid, signal.SIGKILL)
    assert nursery.wait() == -signal.SIGKILL
    return {**counts, "told": told[:5]}


def _names(folder: Path) -> list[tuple[str, int]]:
    """What is there, as far as it can be seen."""
    return sorted((entry.name, entry.inode()) for entry in os.scandir(folder))
