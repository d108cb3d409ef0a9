"""Precision, recall, F1 and support of each class: the table that an evaluation prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from petune.metrics._forms import Form, bioes, flat, form_of, indicators, is_spans, seen

Row = dict[str, Any]
"""`label`, `precision`, `recall`, `f1` (floats) and `support` (how many are true)."""


def per_class(answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str] = ()) -> list[Row]:
    """One row per class in the order of `labels`; per span type for tags that mark spans; none for numbers.

    Raises:
        DataError: no rows.

    Examples:
        >>> per_class(["a", "b"], ["a", "a"], ["a", "b"])[0]
        {'label': 'a', 'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2}
    """
    form: Form = form_of(answers, references, labels)
    if form == "number":
        return []
    if is_spans(labels) and (form == "tags" or _are_short_tags(answers, references, labels)):
        return _spans(answers, references)
    labels = list(labels) or seen(answers, references)
    if not labels:  # only empty sets
        return []
    if form == "tags":
        answers, references = flat(answers, references), flat(references, answers)
    return _classes(answers, references, labels, several=form == "labels")


def _are_short_tags(answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> bool:
    """Rows of so few tags that they look like sets: each answer is as long as its truth, and there is an O."""
    lists = all(isinstance(row, list) for row in references)
    return lists and "O" in labels and all(len(a) == len(r) for a, r in zip(answers, references, strict=True))


def _classes(answers: Any, references: Any, labels: Sequence[str], several: bool) -> list[Row]:
    from sklearn.metrics import precision_recall_fscore_support

    if several:
        columns: Any = range(len(labels))
        answers, references = indicators(answers, labels, spare=1), indicators(references, labels, spare=1)
    else:
        columns = labels
    figures = precision_recall_fscore_support(references, answers, labels=list(columns), average=None, zero_division=0)
    return [_row(label, *values) for label, *values in zip(labels, *figures, strict=True)]


def _spans(answers: Sequence[Any], references: Sequence[Any]) -> list[Row]:
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    true, answered = bioes(references), bioes(answers)
    kinds = sorted({kind for rows in (true, answered) for kind, _, _ in get_entities(rows)})
    if not kinds:
        return []
    figures = precision_recall_fscore_support(true, answered, average=None, zero_division=0)
    return [_row(kind, *values) for kind, *values in zip(kinds, *figures, strict=True)]


def _row(label: str, precision: float, recall: float, f1: float, support: int) -> Row:
    return {
        "label": label,
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "support": int(support),
    }
