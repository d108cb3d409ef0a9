"""The character error rate of transcripts, by jiwer."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics._written import error_rate
from petune.metrics.base import AnswerMetric


class CharacterErrorRate(AnswerMetric):
    """Characters that are wrong, missing or too many, over those that are right; of all rows together, from 0 up.

    For languages without blanks between words, and for small errors of spelling. Case and punctuation count.

    Examples:
        >>> CharacterErrorRate().compute(predictions=["gp"], references=["go"])
        {'cer': 0.5}
    """

    forms: ClassVar[tuple[Form, ...]] = ("text",)
    smaller_is_better: ClassVar[tuple[str, ...]] = ("cer",)

    def _compute(self, predictions: list[str], references: list[Any], **_: Any) -> dict[str, float]:
        return {"cer": error_rate("cer", predictions, references)}
