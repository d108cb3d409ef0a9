"""Precision, recall and F1 of whole spans, as the CoNLL shared tasks count them."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.errors import DataError
from petune.metrics._forms import SPAN_TAG, Form, bioes
from petune.metrics.base import AnswerMetric


class SpanF1(AnswerMetric):
    """`precision`, `recall` and `f1` over all spans: a span is right when its type and both ends are.

    This is seqeval's default mode, which agrees with the conlleval script: it reads BIO, IOB1 (where I-X may begin a
    span), BIOES and BILOU. It is the figure that NER papers quote; `token-accuracy` is another, and much larger.

    Raises:
        DataError: for tags that mark no spans.

    Examples:
        >>> SpanF1().compute(predictions=[["B-PER", "O"]], references=[["B-PER", "I-PER"]])
        {'precision': 0.0, 'recall': 0.0, 'f1': 0.0}
    """

    forms: ClassVar[tuple[Form, ...]] = ("tags", "labels")  # very short rows of tags may look like sets

    def _compute(self, predictions: list[list[str]], references: list[list[str]], **_: Any) -> dict[str, float]:
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

        for tag in (tag for rows in (predictions, references) for row in rows for tag in row):
            if not SPAN_TAG.fullmatch(tag):
                raise DataError(
                    f"The tag {tag!r} marks no span.",
                    expected="Span F1 needs tags that are O or begin with B-, I-, E-, S-, L- or U-.",
                    fix="Use token-accuracy for tags that stand for themselves.",
                )
        precision, recall, f1, _support = precision_recall_fscore_support(
            bioes(references), bioes(predictions), average="micro", zero_division=0
        )
        return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
