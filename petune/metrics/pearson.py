"""Whether answers are a straight line of the truth."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric
from petune.metrics.spearman import correlation


class Pearson(AnswerMetric):
    """Pearson's correlation of answers and truth, from -1 to 1; 0 where either is the same everywhere.

    Examples:
        >>> Pearson().compute(predictions=[1.0, 2.0, 3.0], references=[10.0, 20.0, 30.0])
        {'pearson': 1.0}
    """

    forms: ClassVar[tuple[Form, ...]] = ("number",)

    def _compute(self, predictions: list[float], references: list[float], **_: Any) -> dict[str, float]:
        return {"pearson": correlation(np.asarray(predictions, dtype=float), np.asarray(references, dtype=float))}
