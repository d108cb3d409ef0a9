"""Of the rows that bear a label, the share answered with it."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._averages import averages
from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class Recall(AnswerMetric):
    """Of the rows that bear a label, the share answered with it.

    Its keys are `recall_micro`, `recall_macro` and `recall_weighted`.

    Examples:
        >>> Recall().compute(predictions=["a", "b"], references=["a", "b"])["recall_macro"]
        1.0
    """

    forms: ClassVar[tuple[Form, ...]] = ("label", "labels")

    def _compute(self, predictions: list[Any], references: list[Any], **_: Any) -> dict[str, float]:
        return averages("recall", predictions, references)
