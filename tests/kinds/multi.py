"""Sequence classification, sets of labels."""

from __future__ import annotations

from petune.tasks.sequence_classification import SequenceClassification as task  # noqa: F401
from tests.tiny import FAMILIES  # noqa: F401
from tests.tiny import multi_rows as rows  # noqa: F401
