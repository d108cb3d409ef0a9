"""The correlation of answers and truth: fair where classes are of very different sizes."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class MatthewsCorrelation(AnswerMetric):
    """Matthews' correlation from -1 to 1, 0 for answers that tell nothing (always the same label, for one).

    Of single labels only: it is a figure of one confusion matrix, and sets of labels have one per label.

    Examples:
        >>> MatthewsCorrelation().compute(predictions=["a", "b"], references=["a", "b"])
        {'matthews_correlation': 1.0}
    """

    forms: ClassVar[tuple[Form, ...]] = ("label",)
    why: ClassVar[str] = "It is a figure of one confusion matrix, and sets of labels have one per label."

    def _compute(self, predictions: list[Any], references: list[Any], **_: Any) -> dict[str, float]:
        from sklearn.metrics import matthews_corrcoef

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a part with a single label scores 0, and that is said here
            return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
