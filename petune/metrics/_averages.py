"""Precision, recall and F1 in their three averages, for `f1.py`, `precision.py` and `recall.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from petune.metrics._forms import indicators, seen


def averages(
    which: Literal["precision", "recall", "f1"], predictions: Sequence[Any], references: Sequence[Any]
) -> dict[str, float]:
    """`<which>_micro`, `_macro` and `_weighted` of labels, or of sets of labels.

    micro counts all decisions as one heap (for single labels that is the accuracy); macro is the mean over the labels
    that occur in answers or references, each counting the same; weighted weighs them by how often they are true.
    A share of nothing (a label that is never answered) counts 0.

    Examples:
        >>> averages("recall", ["a", "a", "b"], ["a", "b", "b"])
        {'recall_micro': 0.6666666666666666, 'recall_macro': 0.75, 'recall_weighted': 0.6666666666666666}
    """
    from sklearn.metrics import precision_recall_fscore_support

    answered: Any = predictions
    true: Any = references
    columns: Any = None
    if isinstance(references[0], list):
        labels = seen(predictions, references)
        if not labels:  # nothing to find and nothing found
            return {f"{which}_{average}": 0.0 for average in ("micro", "macro", "weighted")}
        answered, true = indicators(predictions, labels, spare=1), indicators(references, labels, spare=1)
        columns = list(range(len(labels)))
    position = ("precision", "recall", "f1").index(which)
    made = {}
    for average in ("micro", "macro", "weighted"):
        figures = precision_recall_fscore_support(true, answered, labels=columns, average=average, zero_division=0)
        made[f"{which}_{average}"] = float(figures[position])
    return made
