"""Sequence classification, a number a row."""

from __future__ import annotations

from petune.tasks.sequence_classification import SequenceClassification as task  # noqa: F401
from tests.tiny import FAMILIES  # noqa: F401
from tests.tiny import score_rows as rows  # noqa: F401
