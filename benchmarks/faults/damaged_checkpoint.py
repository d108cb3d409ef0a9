"""Each file of the newest checkpoint damaged: the run goes on from the one before it and ends with the same bits.

A file is missing, empty, cut in the middle, or has one bit flipped (`count` places of each file, drawn); or it is a
pickle that would run code. A failure is a run that does not go on, ends with other bits, does not name the file in a
warning, or runs the code.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults import runs
from benchmarks.faults.saves import room
from petune.storage import checkpoint
from petune.training.callbacks import Callback

COUNT = 25
STOP_AT = 9


class _Stopped(BaseException):
    """The run is broken off here."""


class _Stop(Callback):
    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == STOP_AT:
            raise _Stopped


class _Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def run(count: int, seed: int) -> dict[str, Any]:
    """Three plain damages, one pickle and `count` flipped bits for each file of a checkpoint."""
    draw = random.Random(seed)
    counts: Counter[str] = Counter(damages=0, fell_back_with_a_warning=0, code_run=0, pickles_written=0, failures=0)
    told = []
    with room() as place:
        stopped, whole = Path(place) / "stopped", runs.fit("lora", None)
        with contextlib.suppress(_Stopped):
            runs.fit("lora", stopped, keep_last=2, callbacks=[_Stop()])
        counts["pickles_written"] = sum(_is_pickle(path) for path in stopped.rglob("*") if path.is_file())
        for file in (checkpoint.TENSORS, checkpoint.STATE):
            good = (checkpoint.found(stopped)[-1] / file).read_bytes()
            for kind, content in _damages(good, Path(place) / "ran", count, draw):
                what = _one(stopped, Path(place) / "copy", file, content, whole)
                counts["damages"] += 1
                counts["fell_back_with_a_warning"] += what is None
                told += [f"{file}, {kind}: {what}"] if what else []
            counts["code_run"] += (Path(place) / "ran").exists()
    counts["failures"] = len(told) + counts["code_run"] + counts["pickles_written"]
    return {**counts, "told": told[:5]}


def _damages(good: bytes, ran: Path, count: int, draw: random.Random) -> list[tuple[str, bytes | None]]:
    """Kind -> content; None: no file."""
    made: list[tuple[str, bytes | None]] = [("missing", None), ("empty", b""), ("half", good[: len(good) // 2])]
    made.append(("a pickle", pickle.dumps(_Payload(ran))))
    for _ in range(count):
        at, bit = draw.randrange(len(good)), draw.randrange(8)
        made.append((f"bit {bit} of byte {at}", good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]))
    return made


def _one(stopped: Path, folder: Path, file: str, content: bytes | None, whole: str) -> str | None:
    """What is wrong when a run goes on from a folder with one damaged file; None: nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(stopped, folder)
    path = checkpoint.found(folder)[-1] / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ended = runs.fit("lora", folder, keep_last=2)
    if ended != whole:
        return "the run ended with other bits"
    if not any(str(path) in str(warning.message) for warning in warned):
        return "no warning names the file"
    return None if path.parent.with_name(f"{path.parent.name}.broken").exists() else "it was not set aside"


def _is_pickle(path: Path) -> bool:
    """By its first bytes: those of a pickle, or of the zip archive that torch.save makes."""
    return path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
