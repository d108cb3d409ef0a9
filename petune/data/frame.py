"""Columns in memory: a pandas DataFrame, or a pair of texts and labels. pandas itself is never imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petune.data.records import plain, unique
from petune.errors import DataError
from petune.tasks.base import Table


def is_frame(data: Any) -> bool:
    """Whether `data` looks like a pandas DataFrame."""
    return all(hasattr(data, name) for name in ("columns", "index", "iloc", "isna"))


def is_pair(data: Any) -> bool:
    """Whether `data` is a tuple (texts, labels) of two columns."""
    return isinstance(data, tuple) and len(data) == 2 and all(_is_column(item) for item in data)


def read_frame(frame: Any) -> Table:
    """The rows of a DataFrame; a missing cell (NaN, NA, NaT) is None.

    `place` counts rows from 0, as `iloc` does, and adds the index where it says more than that.

    Raises:
        DataError: when two columns have the same name.
    """
    columns = unique(list(frame.columns), "The DataFrame")
    cells = [_values(frame.iloc[:, position]) for position in range(len(columns))]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]
    index = frame.index.tolist()
    counted = index == list(range(len(rows)))

    def place(row: int) -> str:
        return f"row {row} of the DataFrame" + ("" if counted else f" (index {index[row]!r})")

    return Table(rows, columns, "the DataFrame", place)


def read_pair(pair: tuple[Any, Any]) -> Table:
    """The columns `text` and `label` of a tuple (texts, labels).

    Raises:
        DataError: when their lengths differ.

    Examples:
        >>> read_pair((["good", "bad"], [1, 0])).rows[0]
        {'text': 'good', 'label': 1}
    """
    texts, labels = (_values(column) for column in pair)
    if len(texts) != len(labels):
        raise DataError(
            f"There are {len(texts)} texts and {len(labels)} labels.",
            expected="A tuple (texts, labels) needs one label for each text.",
            fix="Check how the two were made; a filter may have been applied to only one of them.",
        )
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    return Table(rows, ("text", "label"), "(texts, labels)", lambda index: f"row {index} of (texts, labels)")


def _is_column(item: Any) -> bool:
    if isinstance(item, str | bytes | bytearray | Mapping) or is_frame(item):
        return False
    if isinstance(item, Sequence):  # `Column` of datasets is one too
        return not any(isinstance(value, Mapping) for value in item)
    return isinstance(item, np.ndarray) or (hasattr(item, "tolist") and hasattr(item, "__len__"))


def _values(column: Any) -> list[Any]:
    """The cells of a sequence, an array or a Series as plain values; what a Series calls missing is None."""
    values = [plain(value) for value in (column.tolist() if hasattr(column, "tolist") else column)]
    if not hasattr(column, "isna"):
        return values
    return [None if missing else value for value, missing in zip(values, column.isna().tolist(), strict=True)]
