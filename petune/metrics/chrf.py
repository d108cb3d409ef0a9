"""chrF of written texts, by sacrebleu."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics._written import need_package, streams
from petune.metrics.base import AnswerMetric


class ChrF(AnswerMetric):
    """chrF2 from 0 to 100 as sacrebleu counts it: the F-score of runs of up to six letters, recall counted twice.

    Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation", WMT. It needs no words, so it serves
    every language and is kinder than BLEU to short texts. A row may have several right texts.

    Examples:
        >>> ChrF().compute(predictions=["a cat"], references=["a cat"])
        {'chrf': 100.0}
    """

    forms: ClassVar[tuple[Form, ...]] = ("text",)

    def _compute(self, predictions: list[str], references: list[Any], **_: Any) -> dict[str, float]:
        need_package("sacrebleu", "chrf")
        from sacrebleu.metrics.chrf import CHRF

        return {"chrf": round(float(CHRF().corpus_score(predictions, streams(references)).score), 10)}
