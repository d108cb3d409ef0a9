"""The forms that answers come in, and what scikit-learn wants to see of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from petune.errors import DataError

Form = Literal["label", "labels", "tags", "number", "text", "ranking"]
"""One str per row, of known classes; a list of str in class order; a list of str per word; a float; one str per row
that is written or found, whose reference is a str, or a list of all that are right; a list of str, the likeliest first,
whose reference is one str."""

SPAN_TAG = re.compile(r"O|[BIESLU]-.+", re.DOTALL)


def form_of(answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> Form:
    """The form of the answers. Sets of labels come in class order without doubles, rows of tags do not.

    Raises:
        DataError: no rows, or not one reference for each answer.

    Examples:
        >>> form_of([["a", "b"]], [["b"]], ["a", "b"]), form_of([["O", "O"]], [["O", "B-X"]], ["B-X", "O"])
        ('labels', 'tags')
        >>> form_of(["Paris"], [["Paris", "paris"]], [])
        'text'
        >>> form_of([["Paris", "Rome"]], ["Rome"], [])
        'ranking'
    """
    if len(answers) != len(references):
        raise DataError(
            f"There are {len(answers)} answers and {len(references)} references.", expected="Each answer needs one."
        )
    if not len(answers):
        raise DataError("There are no rows to score.", expected="At least one was expected.")
    first = references[0]
    if isinstance(answers[0], str):
        return "label" if labels and isinstance(first, str) else "text"
    if isinstance(first, str):
        return "ranking"
    if not isinstance(first, (list, tuple, np.ndarray)):
        return "number"
    order = {name: position for position, name in enumerate(labels)}
    both = [list(row) for row in (*answers, *references)]
    return "labels" if all(_rises([order.get(name, name) for name in row]) for row in both) else "tags"


def _rises(row: list[Any]) -> bool:
    try:
        return all(one < two for one, two in itertools.pairwise(row))
    except TypeError:  # a name that is no known label among those that are
        return len(set(row)) == len(row)


def flat(rows: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> list[str]:
    """All tags of all rows in one list.

    Raises:
        DataError: when a row has another number of tags in `others`.
    """
    for index, (row, other) in enumerate(zip(rows, others, strict=True)):
        if len(row) != len(other):
            raise DataError(f"row {index}: {len(row)} and {len(other)} tags.", expected="Each word has one of each.")
    return [tag for row in rows for tag in row]


def indicators(rows: Sequence[Sequence[str]], labels: Sequence[str], *, spare: int = 0) -> np.ndarray:
    """(rows, C + spare) of zeros and ones.

    scikit-learn takes a single column for the classes 0 and 1; a spare column of zeros keeps it a set of labels.

    Examples:
        >>> indicators([["b"], []], ["a", "b"]).tolist()
        [[0, 1], [0, 0]]
    """
    order = {name: position for position, name in enumerate(labels)}
    made = np.zeros((len(rows), len(labels) + spare), dtype=np.int64)
    for index, row in enumerate(rows):
        made[index, [order[name] for name in row]] = 1
    return made


def seen(*columns: Sequence[Any]) -> list[Any]:
    """What occurs in any of the columns, sorted; lists are looked into."""
    items = {item for column in columns for row in column for item in (row if isinstance(row, list) else [row])}
    return sorted(items)


def is_spans(labels: Sequence[str]) -> bool:
    """Whether tags mark spans (B-X, I-X, ...) rather than standing each for itself."""
    return any(tag != "O" for tag in labels) and all(SPAN_TAG.fullmatch(tag) for tag in labels)


def bioes(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """BILOU's L and U under the names that seqeval's default mode knows, E and S; all else as it is.

    Examples:
        >>> bioes([["U-PER", "O", "I-LOC"]])
        [['S-PER', 'O', 'I-LOC']]
    """
    names = {"L-": "E-", "U-": "S-"}
    return [[names.get(tag[:2], tag[:2]) + tag[2:] for tag in row] for row in rows]
