"""The share of the labels' variance that the answers explain."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class R2(AnswerMetric):
    """The coefficient of determination: 1 is perfect, 0 is as good as always answering the mean, below is worse.

    With a single row there is no variance to explain, and the figure is NaN.

    Examples:
        >>> R2().compute(predictions=[1.0, 2.0, 3.0], references=[1.0, 2.0, 3.0])
        {'r2': 1.0}
    """

    forms: ClassVar[tuple[Form, ...]] = ("number",)

    def _compute(self, predictions: list[float], references: list[float], **_: Any) -> dict[str, float]:
        from sklearn.metrics import r2_score

        if len(references) < 2:
            return {"r2": float("nan")}
        return {"r2": float(r2_score(references, predictions))}
