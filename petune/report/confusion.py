"""Which label is taken for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from petune.metrics._forms import flat, form_of

MOST_LABELS = 12
"""Side of the matrix that is shown."""
MOST_PAIRS = 10


@dataclass(frozen=True)
class Confusion:
    """A matrix of counts, and the pairs that are confused most often.

    Args:
        labels: of rows (given) and columns (answered), in class order.
        counts: `counts[i][j]`: rows of label i that were answered with label j.
        left_out: how many labels are not in the matrix, because fewer of their rows are wrong.
        pairs: (given, answered, count) of the most frequent mistakes, over all labels.
    """

    labels: list[str]
    counts: list[list[int]]
    left_out: int
    pairs: list[tuple[str, str, int]]


def confusion(given: Sequence[Any], answered: Sequence[Any], labels: Sequence[str]) -> Confusion | None:
    """The confusions among single labels or tags; None for sets of labels, numbers and texts.

    Examples:
        >>> made = confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b"])
        >>> made.counts, made.pairs
        ([[1, 1], [0, 1]], [('a', 'b', 1)])
    """
    if not given or not labels:
        return None
    form = form_of(answered, given, labels)
    if form == "tags":
        given, answered = flat(given, answered), flat(answered, given)
    elif form != "label":
        return None
    counted = Counter(zip(given, answered, strict=True))
    wrong = [(*pair, count) for pair, count in counted.most_common() if pair[0] != pair[1]]
    shown = list(labels)
    if len(shown) > MOST_LABELS:
        mistakes: Counter[str] = Counter()
        for one, other, count in wrong:
            mistakes.update({one: count, other: count})
        worst = sorted(labels, key=lambda label: (-mistakes[label], labels.index(label)))[:MOST_LABELS]
        shown = [label for label in labels if label in worst]
    counts = [[counted[one, other] for other in shown] for one in shown]
    return Confusion(shown, counts, len(labels) - len(shown), wrong[:MOST_PAIRS])
