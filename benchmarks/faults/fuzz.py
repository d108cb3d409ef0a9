"""Mutants of a good adapter folder: one byte flipped, one file cut, or a block zeroed, anywhere in its three files.

Each is loaded into a live model in the place of the good one. A mutant may be refused, with the name of its file, or
load with the very same answers; a failure is a silent difference, an error that names no file, or a hang.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.adapter_folder import good, put
from benchmarks.faults.judging import Bench, judged, same
from petune.storage.adapter_file import ADAPTER, EXPORT, PEFT_CONFIG

COUNT = 1_800
FILES = (ADAPTER, EXPORT, PEFT_CONFIG)
WAYS = ("flip", "cut", "zero")


class Mutant(NamedTuple):
    """One change of one file.

    Args:
        place: from 0 to 1, in the file.
        bit: which one is flipped.
    """

    file: str
    way: str
    place: float
    bit: int

    def of(self, data: bytes) -> bytes:
        """The file after the change."""
        at = min(int(len(data) * self.place), len(data) - 1)
        if self.way == "cut":
            return data[:at]
        if self.way == "zero":
            return data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
        return data[:at] + bytes([data[at] ^ 1 << self.bit]) + data[at + 1 :]


class Outcome(NamedTuple):
    """What became of a mutant: `refused`, `same`, `names no file`, `silent difference` or `hang`."""

    word: str
    message: str

    @property
    def failed(self) -> bool:
        """Whether it may not be."""
        return self.word not in ("refused", "same")


def tried(mutant: Mutant, bench: Bench) -> Outcome:
    """Swaps a mutant in for the good adapter, and the good one back."""
    bench.count += 1
    folder = bench.place / f"mutant{bench.count:05d}"
    put(folder, {**good(), mutant.file: mutant.of(good()[mutant.file])})
    labels = bench.model._bank.find("live").task.labels
    outcome, message = judged(lambda: bench.model.replace("live", folder), str(folder), "")
    unchanged = same(bench._state(), bench.before) and bench.model._bank.find("live").task.labels == labels
    if outcome == "hang":
        return Outcome("hang", message)
    if outcome in ("silent", "warning only"):
        if unchanged:
            return Outcome("same", message)
        bench._settle()
        return Outcome("silent difference", message)
    if outcome == "clear" and unchanged:
        return Outcome("refused", message)
    return Outcome("names no file" if unchanged else "silent difference", message)


def drawn(seed: int, count: int) -> list[Mutant]:
    """Mutants, the same ones for the same seed; each file and way has its share."""
    draw = random.Random(seed)
    return [
        Mutant(FILES[i % 3], WAYS[i // 3 % 3] if i % 2 else "flip", draw.random(), draw.randrange(8))
        for i in range(count)
    ]


def run(count: int, seed: int) -> dict[str, Any]:
    """Tries so many mutants."""
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place))
        found = [(mutant, tried(mutant, bench)) for mutant in drawn(seed, count)]
    return {
        "mutants": len(found),
        "by_file": {name: dict(Counter(o.word for m, o in found if m.file == name)) for name in FILES},
        "silent_differences": sum(o.word == "silent difference" for _, o in found),
        "failed": [f"{m}: {o.word}: {o.message}" for m, o in found if o.failed][:20],
        "failures": sum(o.failed for _, o in found),
    }
