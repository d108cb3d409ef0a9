"""Precision, recall and F1 of relations, as TACRED's scorer counts them: "no relation" is no class of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from petune.metrics._forms import Form, seen
from petune.metrics.base import AnswerMetric

NEGATIVE = ("norelation", "na", "nil", "null", "none", "negative", "other")
"""Usual names of the class of pairs that are in no relation; the first that occurs is the one."""


def negative_of(labels: Sequence[str]) -> str | None:
    """The label that says "no relation", however it is written; None: there is none.

    Examples:
        >>> negative_of(["Other", "born_in"]), negative_of(["no relation", "other"]), negative_of(["a"])
        ('Other', 'no relation', None)
    """
    plain = {"".join(c for c in label.casefold() if c.isalnum()): label for label in labels}
    return next((plain[name] for name in NEGATIVE if name in plain), None)


class RelationF1(AnswerMetric):
    """`relation_precision`, `relation_recall` and `relation_f1` over all relations, and `relation_f1_macro`.

    The class that says "no relation" counts neither as found nor as missed: the first three are micro averages over the
    other classes, the last is the mean of their F1. Without such a class all of them count.

    Args:
        negative: the name of that class; None finds it (`no_relation`, `NA`, `Other`, `none`); empty: there is none.

    Zhang et al. 2017, "Position-aware Attention and Supervised Data Improve Slot Filling", EMNLP.

    Examples:
        >>> told = RelationF1().compute(predictions=["a", "NA", "NA"], references=["a", "a", "NA"])
        >>> told["relation_precision"], told["relation_recall"]
        (1.0, 0.5)
    """

    forms: ClassVar[tuple[Form, ...]] = ("label",)

    def __init__(self, negative: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.negative = negative

    def _compute(self, predictions: list[str], references: list[str], **_: Any) -> dict[str, float]:
        from sklearn.metrics import precision_recall_fscore_support

        labels = seen(predictions, references)
        negative = negative_of(labels) if self.negative is None else self.negative
        kept = [label for label in labels if label != negative]
        keys = ("relation_precision", "relation_recall", "relation_f1")
        if not kept:  # nothing to find and nothing found
            return dict.fromkeys((*keys, "relation_f1_macro"), 0.0)
        micro = precision_recall_fscore_support(references, predictions, labels=kept, average="micro", zero_division=0)
        macro = precision_recall_fscore_support(references, predictions, labels=kept, average="macro", zero_division=0)
        figures = {key: float(value) for key, value in zip(keys, micro[:3], strict=True)}
        return {**figures, "relation_f1_macro": float(macro[2])}
