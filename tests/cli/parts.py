"""What the commands are called with: a tiny backbone, rows in files, and a fitted adapter, made once a module."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.cli.test_door import left
from tests.tiny import folder, rows

QUICK = ("--epochs", "1", "--progress", "off", "--batch-size", "8")


def table(path: Path, count: int, seed: int = 0) -> Path:
    """A csv file of texts and labels."""
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows(count, seed=seed))
    return path


def workplace(place: Path) -> Path:
    """`bert`, `train.csv`, `test.csv`, and `runs/a`, a fitted adapter."""
    folder("bert", place).rename(place / "bert")
    table(place / "train.csv", 24)
    table(place / "test.csv", 10, seed=1)
    words = ("fit", str(place / "train.csv"), "--model", str(place / "bert"), "--out", str(place / "runs" / "a"))
    assert left(*words, "--method.rank", "2", "--eval-data", "0.25", *QUICK) == 0
    return place
