"""The rows of the highest loss, and those whose given label is probably wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from petune.report.looking import Looked
from petune.tasks.base import Task

SHOWN = 20
LONGEST_TEXT = 280
"""Letters of a cell that are shown."""
CONFIDENT = 0.9
"""A label that the adapter is so sure of, against the one that was given, may be the right one."""


@dataclass(frozen=True)
class HardRow:
    """One row as the report shows it.

    Args:
        place: where it came from, such as `test.csv, line 17`.
        cells: (column, text) of what the task reads.
        given, answered: as text; `answered` is empty for a task that writes texts.
        confidence: the probability of the answer, where there is one.
        suspect: whether the given label is probably wrong.
    """

    place: str
    cells: list[tuple[str, str]]
    given: str
    answered: str
    loss: float
    confidence: float | None
    suspect: bool


def hard_rows(task: Task, looked: Looked) -> list[HardRow]:
    """The rows of the highest loss, the highest first."""
    order = sorted(range(len(looked.rows)), key=lambda index: -looked.losses[index])
    return [_shown(task, looked, index) for index in order[:SHOWN]]


def suspects(task: Task, looked: Looked) -> int:
    """How many of all rows have a label that is probably wrong."""
    return sum(_is_suspect(task, looked, index) for index in range(len(looked.rows)))


def _shown(task: Task, looked: Looked, index: int) -> HardRow:
    table, row = looked.choice.table, looked.rows[index]
    cells = table.rows[row]
    given, answered = _in_words(task, looked, index, cells)
    return HardRow(
        table.place(row),
        [(column, cut(cells.get(column))) for column in _columns(task, table.columns)],
        given,
        answered,
        looked.losses[index],
        _confidence(looked, index),
        _is_suspect(task, looked, index),
    )


def _columns(task: Task, columns: tuple[str, ...]) -> list[str]:
    """The columns that the task reads; all but that of the answers where it does not say."""
    read = [name for knob in task.texts_in if isinstance(name := getattr(task, knob, None), str) and name in columns]
    return read or [name for name in columns if name != getattr(task, task.answers_in or "", None)]


def _in_words(task: Task, looked: Looked, index: int, cells: Mapping[str, Any]) -> tuple[str, str]:
    """What was given and what was answered; of rows of tags the words about which they differ."""
    if not looked.answered:
        return cut(cells.get(getattr(task, task.answers_in or "", None) or "", "")), ""
    given, answered = looked.given[index], looked.answered[index]
    if not _is_tags(looked, index):
        return cut(given) or "none", cut(answered) or "none"
    words = cells.get(getattr(task, task.texts_in[0], None) or "") if task.texts_in else None
    named = words if isinstance(words, list | tuple) and len(words) == len(given) else range(1, len(given) + 1)
    wrong = [trio for trio in zip(named, given, answered, strict=True) if trio[1] != trio[2]]
    return tuple(cut(", ".join(f"{trio[0]}: {trio[side]}" for trio in wrong)) for side in (1, 2))  # type: ignore[return-value]


def _sure(looked: Looked, index: int) -> np.ndarray:
    """The probabilities of a row: (C,), or (words, C) for tags; (0,) where there are none of that form."""
    found = None if looked.probabilities is None else looked.probabilities[index]
    return found if isinstance(found, np.ndarray) and found.size else np.zeros(0)


def _is_tags(looked: Looked, index: int) -> bool:
    """Whether the answer is a row of tags."""
    return _sure(looked, index).ndim == 2 and isinstance(looked.given[index], list)


def _confidence(looked: Looked, index: int) -> float | None:
    """The probability of a single answer."""
    sure = _sure(looked, index)
    single = bool(looked.answered) and isinstance(looked.answered[index], str) and sure.ndim == 1 and sure.size
    return float(sure.max()) if single else None


def _is_suspect(task: Task, looked: Looked, index: int) -> bool:
    """Whether a label that was not given is nearly certain, or one that was given is nearly excluded."""
    sure = _sure(looked, index)
    if not looked.answered or not sure.size:
        return False
    given, answered = looked.given[index], looked.answered[index]
    if isinstance(given, str):
        return bool(given != answered and sure.max() >= CONFIDENT)
    if _is_tags(looked, index):
        wrong = np.array([one != other for one, other in zip(given, answered, strict=True)], dtype=bool)
        return bool(wrong.any() and sure[wrong].max() >= CONFIDENT)
    if len(sure) != len(task.labels):
        return False
    there = np.isin(np.array(task.labels), list(given))
    return bool((sure[~there] >= CONFIDENT).any() or (sure[there] <= 1 - CONFIDENT).any())


def cut(value: Any) -> str:
    """A cell as text, not too long.

    Examples:
        >>> cut(["a", "b"]), cut(0.25), cut("x" * 300)[-3:]
        ('a, b', '0.25', 'xx…')
    """
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, list | tuple):
        text = ", ".join(cut(item) for item in value[:LONGEST_TEXT])
    elif value is None or isinstance(value, str | int):
        text = "" if value is None else str(value)
    else:  # a picture or a sound: what it is says more than its numbers
        text = f"({type(value).__name__})"
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
