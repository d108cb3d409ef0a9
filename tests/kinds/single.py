"""Sequence classification, one label a row."""

from __future__ import annotations

from petune.tasks.sequence_classification import SequenceClassification as task  # noqa: F401
from tests.tiny import FAMILIES, rows  # noqa: F401
