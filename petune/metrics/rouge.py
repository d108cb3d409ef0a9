"""ROUGE of written texts, by rouge-score."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics._written import need_package, right_texts
from petune.metrics.base import AnswerMetric

KINDS = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""A Chinese character or a Japanese letter by itself; a run of letters and digits of any other script."""


class Rouge(AnswerMetric):
    """`rouge1`, `rouge2` and `rougeL` from 0 to 1: the mean over the rows of F1 of words, of pairs of words, and of the
    longest common subsequence.

    Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL workshop. For English the figures are those
    of rouge-score's defaults (no stemming); its own words hold a to z and digits only, which scores any other script 0
    without a word, so here every script's letters count. Of several right texts of a row the best one does.

    Examples:
        >>> figures = Rouge().compute(predictions=["the cat sat"], references=["the cat slept"])
        >>> {name: round(value, 2) for name, value in figures.items()}
        {'rouge1': 0.67, 'rouge2': 0.5, 'rougeL': 0.67}
    """

    forms: ClassVar[tuple[Form, ...]] = ("text",)

    def _compute(self, predictions: list[str], references: list[Any], **_: Any) -> dict[str, float]:
        need_package("rouge_score", "rouge")
        from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

        scorer = RougeScorer(list(KINDS), tokenizer=_Words())
        pairs = zip(predictions, right_texts(references), strict=True)
        rows = [scorer.score_multi(right, written) for written, right in pairs]
        return {kind: sum(float(row[kind].fmeasure) for row in rows) / len(rows) for kind in KINDS}


class _Words:
    """What rouge-score asks for the words of a text."""

    def tokenize(self, text: str) -> list[str]:
        """Its words, in small letters."""
        return _WORD.findall(text.lower())
