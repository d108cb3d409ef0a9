"""The share of rows that are answered right."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form, indicators, seen
from petune.metrics.base import AnswerMetric


class Accuracy(AnswerMetric):
    """The share of rows that are answered right; a set of labels is right only as a whole.

    Examples:
        >>> Accuracy().compute(predictions=["a", "b"], references=["a", "a"])
        {'accuracy': 0.5}
    """

    forms: ClassVar[tuple[Form, ...]] = ("label", "labels", "text")

    def _compute(self, predictions: list[Any], references: list[Any], **_: Any) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        if isinstance(predictions[0], str) and not isinstance(references[0], str):
            right = [answer in known for answer, known in zip(predictions, references, strict=True)]
            return {"accuracy": sum(right) / len(right)}
        answered: Any = predictions
        true: Any = references
        if isinstance(references[0], list):
            labels = seen(predictions, references)
            if not labels:  # every set is empty, and answered so
                return {"accuracy": 1.0}
            answered, true = indicators(predictions, labels), indicators(references, labels)
        return {"accuracy": float(accuracy_score(true, answered))}
