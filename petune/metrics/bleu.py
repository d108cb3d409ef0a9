"""BLEU of written texts, by sacrebleu."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics._written import need_package, streams
from petune.metrics.base import AnswerMetric


class Bleu(AnswerMetric):
    """Corpus BLEU from 0 to 100 as sacrebleu counts it: n-grams up to four of all rows together, a penalty if short.

    Papineni et al. 2002, ACL; Post 2018, "A Call for Clarity in Reporting BLEU Scores", arXiv:1804.08771. A row may
    have several right texts.

    Args:
        tokenize: sacrebleu's way to words; `"13a"` fits languages with blanks between words. Chinese needs `"zh"`,
            others `"intl"`, `"char"`, ... A figure compares only with figures of the same.

    Examples:
        >>> Bleu().compute(predictions=["the cat sat on a mat"], references=["the cat sat on a mat"])
        {'bleu': 100.0}
    """

    forms: ClassVar[tuple[Form, ...]] = ("text",)

    def __init__(self, tokenize: str = "13a", **settings: Any) -> None:
        super().__init__(**settings)
        self.tokenize = tokenize

    def _compute(self, predictions: list[str], references: list[Any], **_: Any) -> dict[str, float]:
        need_package("sacrebleu", "bleu")
        from sacrebleu.metrics.bleu import BLEU

        score = BLEU(tokenize=self.tokenize).corpus_score(predictions, streams(references))
        return {"bleu": round(float(score.score), 10)}
