"""The root of the mean squared distance between answer and truth."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class RMSE(AnswerMetric):
    """The root of the mean squared error, in the unit of the labels; smaller is better, and large errors count more.

    Examples:
        >>> RMSE().compute(predictions=[1.0, 2.0], references=[4.0, 6.0])
        {'rmse': 3.5355339059327378}
    """

    forms: ClassVar[tuple[Form, ...]] = ("number",)
    smaller_is_better: ClassVar[tuple[str, ...]] = ("rmse",)

    def _compute(self, predictions: list[float], references: list[float], **_: Any) -> dict[str, float]:
        from sklearn.metrics import root_mean_squared_error

        return {"rmse": float(root_mean_squared_error(references, predictions))}
