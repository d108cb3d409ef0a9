"""Sequence classification, a number a row."""

from __future__ import annotations

from petune.tasks.sequence_classification import SequenceClassification
from tests.tiny import FAMILIES  # noqa: F401
from tests.tiny import score_rows as rows  # noqa: F401


def task() -> SequenceClassification:
    """Told that the numbers are numbers: all of them are whole, which would make them names of classes."""
    return SequenceClassification(problem_type="regression")
