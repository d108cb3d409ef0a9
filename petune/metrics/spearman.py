"""Whether answers rise where the truth rises."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class Spearman(AnswerMetric):
    """Spearman's rank correlation of answers and truth, from -1 to 1; 0 where either is the same everywhere.

    It asks for the order alone, so a cosine can be scored against stars from 0 to 5. Equal values share their mean
    rank.

    Examples:
        >>> Spearman().compute(predictions=[0.1, 0.2, 0.9], references=[1.0, 3.0, 5.0])
        {'spearman': 1.0}
    """

    forms: ClassVar[tuple[Form, ...]] = ("number",)

    def _compute(self, predictions: list[float], references: list[float], **_: Any) -> dict[str, float]:
        return {"spearman": correlation(_ranks(predictions), _ranks(references))}


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two columns; 0 where either is the same everywhere.

    Examples:
        >>> correlation(np.array([1.0, 2.0]), np.array([3.0, 1.0]))
        -1.0
    """
    x, y = first - first.mean(), second - second.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return min(1.0, max(-1.0, float(x @ y) / size)) if size else 0.0


def _ranks(values: list[float]) -> np.ndarray:
    """(N,) ranks from 0, equal values at their mean rank."""
    _, place, many = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    mean: np.ndarray = np.cumsum(many) - (many + 1) / 2
    return mean[place]
