"""The options of multiple-choice rows, and which of them is right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petune.errors import DataError
from petune.lookup import near
from petune.tasks._columns import literal, need_characters
from petune.tasks._labels import is_missing, label_name
from petune.tasks.base import Table

OPTION = re.compile(r"(?:option|choice|ending|answer|sol)[_ ]?([0-9]|[a-h])", re.IGNORECASE)
"""A column that holds one option, such as `ending0` (SWAG), `option_a`, `sol1` (PIQA)."""
LISTS = ("options", "choices", "endings", "candidates")
"""Columns that hold all options of a row."""
ALL = "options"
"""Where a row to predict has all of its options, though in training each had a column of its own."""


def option_columns(table: Table) -> tuple[str, ...]:
    """The columns of options: one that holds lists, or several that hold one each, in order; empty: there are none.

    Examples:
        >>> option_columns(Table([], ("id", "sol2", "sol1")))
        ('sol1', 'sol2')
    """
    lists = [column for column in table.columns if column.strip().lower() in LISTS]
    if lists:
        return (lists[0],)
    found = {column: match[1].lower() for column in table.columns if (match := OPTION.fullmatch(column.strip()))}
    return tuple(sorted(found, key=lambda column: found[column])) if len(found) > 1 else ()


def options_of(place: str, row: Mapping[str, Any], columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of a row, at least two, each checked; and their own labels, where a cell brings them (as in ARC).

    A row may have fewer options than another: of several columns those that are empty are passed over.

    Raises:
        DataError: no list, fewer than two options, empty ones or one twice, with the row's place.

    Examples:
        >>> options_of("row 0", {"options": {"text": ["red", "blue"], "label": ["A", "B"]}}, ("options",))
        (['red', 'blue'], ['A', 'B'])
    """
    labels: list[str] = []
    if len(columns) > 1 and not row.keys().isdisjoint(columns):
        given: Any = [row.get(column) for column in columns]
        given = [option for option in given if not (is_missing(option) or option == "")]
    else:
        given = _read(place, row.get(columns[0] if len(columns) == 1 else ALL))
        if isinstance(given, Mapping) and "text" in given:
            labels = [label_name(label, place) for label in given.get("label", [])]
            given = given["text"]
    if not isinstance(given, (list, tuple, np.ndarray)):
        raise DataError(
            f"{place}: the options in column {columns[0]!r} are {given!r}, a {type(given).__name__}.",
            expected="A list of texts was expected.",
            fix="Give lists (jsonl), a JSON list in a csv cell, or one column for each option.",
        )
    options = [_option(option, place) for option in given]
    if len(options) < 2 or len(set(options)) < len(options):
        what = f"only {len(options)} option" if len(options) < 2 else "an option twice"
        raise DataError(f"{place}: there is {what} in {', '.join(columns)}.", expected="Two different ones or more.")
    return options, labels if len(labels) == len(options) else []


def right_one(value: Any, options: Sequence[str], labels: Sequence[str], place: str) -> int:
    """Which option is right: by its text, its own label, its number from 0, or its letter.

    Raises:
        DataError: none of these, with the row's place and the near one.

    Examples:
        >>> [right_one(value, ["red", "blue"], [], "row 0") for value in ("blue", 1, "1", "B", "(b)")]
        [1, 1, 1, 1, 1]
    """
    name = label_name(value, place)
    for known in (list(options), list(labels)):
        if name in known:
            return known.index(name)
    if name.isdecimal() and int(name) < len(options):
        return int(name)
    letter = name.strip("().: ").upper()
    if len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(options):
        return ord(letter) - ord("A")
    raise DataError(
        f"{place}: {name!r} is none of the {len(options)} options.",
        expected="The right one is told by its text, its number from 0, or its letter from A.",
        fix=near(name, [*options, *labels]),
    )


def _read(place: str, cell: Any) -> Any:
    """A list that is written as text, as in a csv file, as a list."""
    if not isinstance(cell, str) or not cell.strip().startswith(("[", "{")):
        return cell
    try:
        return literal(cell)
    except ValueError:
        raise DataError(
            f"{place}: the options {cell[:80]!r} are no list.", expected='Such as ["red", "blue"].'
        ) from None


def _option(value: Any, place: str) -> str:
    if not isinstance(value, str) and not isinstance(value, (int, float)):
        raise DataError(f"{place}: the option {value!r} is a {type(value).__name__}.", expected="Options are texts.")
    text = value.strip() if isinstance(value, str) else label_name(value, place)
    if not text:
        raise DataError(f"{place}: an option is empty.", fix="Fill it in or drop it.")
    need_characters(text, place, "an option")
    return text
