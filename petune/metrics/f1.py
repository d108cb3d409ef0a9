"""F1, the harmonic mean of precision and recall."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._averages import averages
from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class F1(AnswerMetric):
    """F1, the harmonic mean of precision and recall.

    Its keys are `f1_micro`, `f1_macro` and `f1_weighted`.

    Examples:
        >>> F1().compute(predictions=["a", "b"], references=["a", "b"])["f1_macro"]
        1.0
    """

    forms: ClassVar[tuple[Form, ...]] = ("label", "labels")

    def _compute(self, predictions: list[Any], references: list[Any], **_: Any) -> dict[str, float]:
        return averages("f1", predictions, references)
