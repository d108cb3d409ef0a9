"""What was trained on, in a few figures: rows, labels and lengths. The rows themselves are not kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from petune.data.preparing import Prepared
from petune.errors import PetuneError
from petune.tasks.base import Example, Task
from petune.training.batches import length_of

BINS = 24
"""Bars of the histogram of lengths, at most."""


def data_figures(data: Prepared) -> dict[str, Any]:
    """Rows, labels and lengths as JSON knows them.

    Returns:
        `rows`; `evaluation_rows` (or None); `labels`: name -> [in training, in evaluation], empty where there are no
        classes; `pieces`: `shortest`, `median`, `most` (95 of 100 rows are no longer) and `longest`; `histogram`:
        `edges` (n + 1) and `counts` (n), in pieces.
    """
    lengths = np.array([length_of(example) for example in data.train])
    shortest, median, most, longest = (int(value) for value in np.percentile(lengths, (0, 50, 95, 100)))
    counts, edges = np.histogram(lengths, bins=min(BINS, max(1, longest - shortest + 1)))
    return {
        "rows": _rows(data.train),
        "evaluation_rows": None if data.evaluation is None else _rows(data.evaluation),
        "labels": _labels(data.task, data.train, data.evaluation or []),
        "pieces": {"shortest": shortest, "median": median, "most": most, "longest": longest},
        "histogram": {"edges": edges.round(2).tolist(), "counts": counts.tolist()},
    }


def _rows(examples: Sequence[Example]) -> int:
    """Rows, not examples: a long text may have become several."""
    return len({example.get("row", index) for index, example in enumerate(examples)})


def _labels(task: Task, train: Sequence[Example], evaluation: Sequence[Example]) -> dict[str, list[int]]:
    try:
        parts = [task.class_counts(train), task.class_counts(evaluation) if evaluation else [0] * len(task.labels)]
    except PetuneError:  # a task without classes says so
        return {}
    return {name: [int(part[index]) for part in parts] for index, name in enumerate(task.labels)}
