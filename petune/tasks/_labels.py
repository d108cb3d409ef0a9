"""Label cells to strings, sets and numbers; which kind of problem they are; the order of the classes."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from petune.errors import DataError
from petune.lookup import near
from petune.tasks._columns import need_characters
from petune.tasks.base import IGNORE

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

LARGEST = 1e18
"""A larger number's square is infinite in 32 bits."""
FEW_ROWS = 5
"""With fewer whole numbers nobody can tell classes from a regression."""

Cells = Iterable[tuple[str, Any]]
"""(place, value) of rows; the place is words for messages."""

# `float()` would also take "nan", "inf" and "1_000", which are words here.
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
WHOLE = re.compile(r"[+-]?\d+")
WHOLE_AS_FLOAT = re.compile(r"([+-]?\d+)\.0+")
"""What a csv file holds of 4 once a missing value in its column has made pandas turn ints into floats."""
PRINTED = re.compile(r"\[\s*([\d.,\s]*|['\"].*['\"]|.*,.*)\s*\]", re.DOTALL)
"""A list as Python or NumPy prints it: what a csv file holds in its place."""


def is_missing(value: object) -> bool:
    """None, NaN, and pandas' `NA` and `NaT` (known by name, so that pandas need not be imported).

    Examples:
        >>> is_missing(float("nan")), is_missing("")
        (True, False)
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def is_list(value: object) -> bool:
    """Whether a cell holds several labels."""
    return isinstance(value, (list, tuple, set, frozenset, np.ndarray))


def label_name(value: object, place: str) -> str:
    """One label as the string it is from here on.

    Raises:
        DataError: missing, empty, or of a kind that is no label.

    Examples:
        >>> label_name(3, "row 0"), label_name(3.0, "row 1"), label_name(True, "row 2"), label_name(" pos ", "row 3")
        ('3', '3', 'True', 'pos')
    """
    if is_missing(value):
        raise _missing(place)
    if isinstance(value, str):
        return _written(value, place)
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, numbers.Real):
        plain = float(value)
        if plain == IGNORE:
            raise _ignored(value, place)
        if not math.isfinite(plain):
            raise DataError(f"{place}: the label {value!r} is no finite number.", expected="A label was expected.")
        return str(int(value)) if plain.is_integer() else repr(plain)  # type: ignore[call-overload]
    raise DataError(
        f"{place}: the label {value!r} is a {type(value).__name__}.",
        expected="A label is a string, an int, a bool, a float, or a list of labels.",
    )


def label_set(value: object, place: str, separator: str | None) -> list[str]:
    """The labels of a multi-label cell, each once; an empty list is an answer like any other.

    Raises:
        DataError: missing, or no list (and no separator to make one).

    Examples:
        >>> label_set("b|a|b", "row 0", "|"), label_set([], "row 1", None)
        (['b', 'a'], [])
    """
    if is_missing(value):
        raise _missing(place)
    if isinstance(value, str) and separator is not None:
        value = [part for part in _written(value, place, empty=True).split(separator) if part.strip()]
    if not is_list(value):
        raise DataError(
            f"{place}: the label {value!r} is a single {type(value).__name__} where rows have lists of labels.",
            expected="Each row of a multi-label problem has a list of labels.",
            fix="Give lists, or pass label_separator='|' (or what separates the labels in a string).",
        )
    items: list[Any] = list(value)  # type: ignore[call-overload]
    if len(items) > len(set(map(str, items))) and _is_vector(items):
        raise _vector(place, items)
    return list(dict.fromkeys(label_name(item, place) for item in items))


def refuse_vectors(cells: Cells) -> None:
    """Refuses a column of vectors of zeros and ones, which [0, 1] alone does not give away.

    Raises:
        DataError: when every row has as many numbers (two or more), all zeros and ones.
    """
    rows = [(place, list(value) if is_list(value) else []) for place, value in cells]  # type: ignore[call-overload]
    if len({len(row) for _, row in rows}) == 1 and len(rows[0][1]) > 1 and all(_is_vector(row) for _, row in rows):
        raise _vector(*rows[0])


def _is_vector(items: list[Any]) -> bool:
    return all(str(item) in ("0", "1", "0.0", "1.0") for item in items)


def _vector(place: str, items: list[Any]) -> DataError:
    return DataError(
        f"{place}: the labels {items!r} look like a vector of zeros and ones.",
        expected="Each row of a multi-label problem has a list of the labels that it bears.",
        fix="Give their names, such as ['toxic', 'insult'].",
    )


def _written(value: str, place: str, *, empty: bool = False) -> str:
    """A label that is a string, without the white space around it."""
    need_characters(value, place, "the label")
    name = str(value.strip())
    if name == str(IGNORE):
        raise _ignored(value, place)
    if not name and not empty:
        raise _missing(place)
    if PRINTED.fullmatch(name):
        raise DataError(
            f"{place}: the label {name!r} looks like a list that was written as text.",
            expected="A cell of a csv file holds a string, never a list.",
            fix="Write x|y and pass label_separator='|', or give the rows as jsonl, where lists are lists.",
        )
    return name


def number(value: object, place: str) -> float:
    """A regression target.

    Raises:
        DataError: missing, or no finite number.

    Examples:
        >>> number("3.8", "row 0")
        3.8
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise _missing(place)
    is_number = isinstance(value, numbers.Real) or (isinstance(value, str) and NUMBER.fullmatch(value))
    if not is_number or not math.isfinite(float(value)):  # type: ignore[arg-type]
        raise DataError(f"{place}: the label {value!r} is no finite number.", expected="Regression needs numbers.")
    if abs(float(value)) > LARGEST:  # type: ignore[arg-type]
        raise DataError(
            f"{place}: the label {value!r} is too large: its square overflows in 32 bits.",
            expected=f"Numbers up to {LARGEST:.0e} can be learnt, numbers around 1 are learnt best.",
            fix="Scale the labels, or correct this one.",
        )
    return float(value)  # type: ignore[arg-type]


def detect(cells: Cells) -> ProblemType:
    """The kind of problem: lists are multi-label; numbers that are not all whole are regression; else single label.

    Raises:
        DataError: hardly a number is not whole, and the others repeat as classes do: a mistake, or not, who knows.

    Examples:
        >>> detect([("row 0", "4.0"), ("row 1", "3.8")])
        'regression'
        >>> detect([("row 0", 4.0), ("row 1", 3.0)])
        'single_label_classification'
    """
    found = [(place, value) for place, value in cells if not is_missing(value)]
    values = [value for _, value in found]
    if any(map(is_list, values)):
        return "multi_label_classification"
    fractions = [isinstance(v, (float, np.floating)) and not float(v).is_integer() for v in values]
    if any(fractions):
        _refuse_stray([(place, v) for place, v in found if isinstance(v, numbers.Real)])
        return "regression"
    written = [v for v in values if isinstance(v, str)]
    if written and len(written) == len(values) and all(NUMBER.fullmatch(v) for v in written):
        if all(float(v).is_integer() for v in written):
            return "single_label_classification"
        _refuse_stray([(place, float(v)) for place, v in found])
        return "regression"
    return "single_label_classification"


def _refuse_stray(found: Sequence[tuple[str, Any]]) -> None:
    """Refuses a fraction or two among classes that are numbers, which alone would make a regression of them."""
    stray = [(place, value) for place, value in found if not float(value).is_integer()]
    whole = [float(value) for _, value in found if float(value).is_integer()]
    few, repeat = len(stray) <= max(1, len(found) // 100), 2 * len(set(whole)) <= len(whole)
    if few and repeat and len(whole) >= FEW_ROWS and math.isfinite(stray[0][1]):
        raise DataError(
            f"{stray[0][0]}: the label {stray[0][1]!r} is a fraction, where {len(whole)} others are whole numbers"
            f" that repeat.",
            expected="Classes were expected, or numbers of all kinds.",
            fix="Correct it, or pass problem_type='regression' (or 'single_label_classification').",
        )


def unfloated(rows: Sequence[list[str]]) -> list[list[str]]:
    """The labels of each row; where all labels of a column are whole numbers, "4.0" is "4", as the number 4.0 is.

    Examples:
        >>> unfloated([["4.0"], ["3"]]), unfloated([["1.5"], ["2.0"]])
        ([['4'], ['3']], [['1.5'], ['2.0']])
    """
    names = {name for row in rows for name in row}
    if not all(WHOLE.fullmatch(name) or WHOLE_AS_FLOAT.fullmatch(name) for name in names):
        return list(rows)
    return [[str(int(name.partition(".")[0])) if "." in name else name for name in row] for row in rows]


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """The classes in their fixed order: sorted, by value when all are whole numbers.

    Examples:
        >>> ordered(["10", "9", "1"]), ordered(["pos", "neg", "pos"])
        (('1', '9', '10'), ('neg', 'pos'))
    """
    distinct = set(names)
    if all(WHOLE.fullmatch(name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def classes(labels: Sequence[str]) -> dict[str, Any]:
    """What a shell's configuration says of its classes: one output for each.

    Examples:
        >>> classes(["bad", "good"])["id2label"]
        {0: 'bad', 1: 'good'}
    """
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: index for index, name in enumerate(labels)},
    }


def class_index(name: str, index: Mapping[str, int], place: str, noun: str = "label") -> int:
    """The class of a label name; a whole number may be written as a float there or here.

    Raises:
        DataError: a label that training never saw, with the near one.

    Examples:
        >>> class_index("4.0", {"3": 0, "4": 1}, "row 0"), class_index("2", {"1.5": 0, "2.0": 1}, "row 0")
        (1, 1)
    """
    for spelt in (name, *_other_spelling(name)):
        if spelt in index:
            return index[spelt]
    raise DataError(
        f"{place}: the {noun} {name!r} was never seen in training.",
        expected=f"{len(index)} {noun}s are known.",
        fix=near(name, index),
    )


def _other_spelling(name: str) -> tuple[str, ...]:
    if WHOLE.fullmatch(name):
        return (f"{name}.0",)
    return (str(int(name.partition(".")[0])),) if WHOLE_AS_FLOAT.fullmatch(name) else ()


def _ignored(value: object, place: str) -> DataError:
    return DataError(
        f"{place}: the label {value!r} is the mark for 'no label here' in transformers.",
        expected="Each row needs a label, and each word a tag; what the tokenizer adds is left out by itself.",
        fix="Give the labels of words, not of pieces; drop rows without a label.",
    )


def _missing(place: str) -> DataError:
    return DataError(
        f"{place}: the label is missing.", expected="Each row needs one.", fix="Fill it in or drop the row."
    )
