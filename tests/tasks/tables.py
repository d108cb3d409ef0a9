"""Small tables for the tests of tasks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from petune.tasks.base import Table, Task


def table(rows: Sequence[Mapping[str, Any]], *columns: str) -> Table:
    """Rows of a file whose first line is the header, so that row 0 is line 2."""
    return Table(rows, columns or tuple(rows[0]), "train.csv", lambda index: f"train.csv, line {index + 2}")


def labelled(*labels: Any) -> Table:
    """One row per label."""
    return table([{"text": f"text number {i}", "label": label} for i, label in enumerate(labels)])


def reread(task: Task) -> Task:
    """The task after a round trip through JSON, as an adapter file makes it."""
    return type(task)(**json.loads(json.dumps(dataclasses.asdict(task))))
