"""Rows that are mappings already, and the plain Python values that every row ends up with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from petune.errors import DataError
from petune.tasks.base import Table


def table_of(items: Sequence[Any], source: str, place: Callable[[int], str]) -> Table:
    """A table of mappings; a key that some rows lack becomes a column that is None there.

    Args:
        items: one mapping per row, str -> value.
        source: the name of the whole, for messages.
        place: row index -> words, for messages.

    Raises:
        DataError: an item that is no mapping, or a key that is no str, with its place.

    Examples:
        >>> table_of([{"text": "a"}, {"text": "b", "label": 1}], "the data", str).rows[0]
        {'text': 'a', 'label': None}
    """
    columns: dict[str, None] = {}
    for index, item in enumerate(items):
        _check(item, place, index)
        columns.update(dict.fromkeys(item))
    rows = [{column: plain(item.get(column)) for column in columns} for item in items]
    return Table(rows, tuple(columns), source, place)


LONG = 4096
"""Numbers of an array beyond which it is a picture or a sound, however it is laid out."""


def plain(value: Any) -> Any:
    """NumPy scalars and short arrays as Python values; anything else, pictures and sounds among it, as it is.

    Examples:
        >>> plain(np.array([1, 2]))
        [1, 2]
    """
    if isinstance(value, np.ndarray) and (value.ndim > 1 or value.size > LONG):
        return value
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def unique(columns: Sequence[Any], source: str) -> tuple[str, ...]:
    """The column names as strings, each once.

    Raises:
        DataError: when a name occurs twice: one of the two would be lost.
    """
    names = [str(column) for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{source} has more than one column named {' and '.join(map(repr, twice))}.",
            expected="Every column needs its own name, or one of them would be lost.",
            fix="Rename or drop the second one.",
        )
    return tuple(names)


def _check(item: Any, place: Callable[[int], str], index: int) -> None:
    if not isinstance(item, Mapping):
        raise DataError(
            f"{place(index)} is {_brief(item)}.",
            expected="Each row must be a mapping from column names to values.",
            fix='Write {"text": ..., "label": ...} for each row, or pass a tuple (texts, labels).',
        )
    for key in item:
        if not isinstance(key, str):
            raise DataError(f"{place(index)} has the key {key!r}.", expected="Column names must be strings.")


def _brief(item: Any) -> str:
    text = repr(item)
    return f"a {type(item).__name__}: {text if len(text) <= 60 else text[:57] + '...'}"
