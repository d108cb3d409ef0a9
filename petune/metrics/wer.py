"""The word error rate of transcripts, by jiwer."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics._written import error_rate
from petune.metrics.base import AnswerMetric


class WordErrorRate(AnswerMetric):
    """Words that are wrong, missing or too many, over the words that are right; of all rows together, from 0 up.

    Case and punctuation count, as they stand: lower both yourself where they should not. A row may have several right
    texts; the nearest counts.

    Examples:
        >>> WordErrorRate().compute(predictions=["go for ten"], references=["go forward ten metres"])
        {'wer': 0.5}
    """

    forms: ClassVar[tuple[Form, ...]] = ("text",)
    smaller_is_better: ClassVar[tuple[str, ...]] = ("wer",)

    def _compute(self, predictions: list[str], references: list[Any], **_: Any) -> dict[str, float]:
        return {"wer": error_rate("wer", predictions, references)}
