"""The share of words that are tagged right, those outside of any span included."""

from __future__ import annotations

from typing import Any, ClassVar

from petune.metrics._forms import Form, flat
from petune.metrics.base import AnswerMetric


class TokenAccuracy(AnswerMetric):
    """`token_accuracy`, `token_f1_micro` and `token_f1_macro` over the tags of all words, `O` included.

    Accuracy and micro F1 over all tags are the same number: each word has one tag, so a false answer is one false
    positive and one false negative. Most words of a text are `O`, which makes it large: where a tutorial quotes
    "97.3 %" on CoNLL-2003 it is this number, and not that of the spans (`span-f1`), which papers quote and is lower.
    Macro F1 is the mean over the tags that occur.

    Examples:
        >>> TokenAccuracy().compute(predictions=[["O", "O"]], references=[["O", "B-PER"]])["token_f1_micro"]
        0.5
    """

    forms: ClassVar[tuple[Form, ...]] = ("tags", "labels")  # very short rows of tags may look like sets

    def _compute(self, predictions: list[list[str]], references: list[list[str]], **_: Any) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        true, answered = flat(references, predictions), flat(predictions, references)
        return {
            "token_accuracy": float(accuracy_score(true, answered)),
            "token_f1_micro": float(f1_score(true, answered, average="micro", zero_division=0)),
            "token_f1_macro": float(f1_score(true, answered, average="macro", zero_division=0)),
        }
