"""How many words answers share with what is right."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics._squad import best_mean, normalised
from petune.metrics.base import AnswerMetric


class TokenF1(AnswerMetric):
    """The F1 of the words of an answer and those of its best reference, averaged over rows.

    Rajpurkar et al. 2016, arXiv:1606.05250; case, punctuation and English articles do not count. Where "no answer" is
    right, the empty text alone scores 1.

    Examples:
        >>> TokenF1().compute(predictions=["the old town of Oslo", ""], references=[["Oslo"], [""]])
        {'token_f1': 0.7}
    """

    forms: ClassVar[tuple[Form, ...]] = ("text",)

    def _compute(self, predictions: list[str], references: list[Any], **_: Any) -> dict[str, float]:
        return {"token_f1": best_mean(_f1, predictions, references)}


def _f1(answer: str, reference: str) -> float:
    found, right = normalised(answer).split(), normalised(reference).split()
    if not found or not right:
        return float(found == right)
    shared = sum((Counter(found) & Counter(right)).values())
    return 2 * shared / (len(found) + len(right))
