"""The mean distance between answer and truth."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class MAE(AnswerMetric):
    """The mean absolute error, in the unit of the labels; smaller is better.

    Examples:
        >>> MAE().compute(predictions=[1.0, 2.0], references=[1.5, 2.0])
        {'mae': 0.25}
    """

    forms: ClassVar[tuple[Form, ...]] = ("number",)
    smaller_is_better: ClassVar[tuple[str, ...]] = ("mae",)

    def _compute(self, predictions: list[float], references: list[float], **_: Any) -> dict[str, float]:
        from sklearn.metrics import mean_absolute_error

        return {"mae": float(mean_absolute_error(references, predictions))}
