"""The share of answers that are right to the word."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics._squad import best_mean, normalised
from petune.metrics.base import AnswerMetric


class ExactMatch(AnswerMetric):
    """The share of answers that equal one of their references; case, punctuation and English articles do not count.

    Rajpurkar et al. 2016, arXiv:1606.05250. "No answer" is the empty text.

    Examples:
        >>> ExactMatch().compute(predictions=["The Seine.", "Oslo"], references=[["Seine", "the river"], ["Bergen"]])
        {'exact_match': 0.5}
    """

    forms: ClassVar[tuple[Form, ...]] = ("text",)

    def _compute(self, predictions: list[str], references: list[Any], **_: Any) -> dict[str, float]:
        return {"exact_match": best_mean(_same, predictions, references)}


def _same(answer: str, reference: str) -> float:
    return float(normalised(answer) == normalised(reference))
