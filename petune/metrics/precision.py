"""Of the rows answered with a label, the share that bears it."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._averages import averages
from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class Precision(AnswerMetric):
    """Of the rows answered with a label, the share that bears it.

    Its keys are `precision_micro`, `precision_macro` and `precision_weighted`.

    Examples:
        >>> Precision().compute(predictions=["a", "b"], references=["a", "b"])["precision_macro"]
        1.0
    """

    forms: ClassVar[tuple[Form, ...]] = ("label", "labels")

    def _compute(self, predictions: list[Any], references: list[Any], **_: Any) -> dict[str, float]:
        return averages("precision", predictions, references)
