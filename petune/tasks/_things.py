"""Rows of pictures and sounds for `predict`, which may be mappings themselves."""

from __future__ import annotations

from typing import Any

from petune.tasks._texts import rows_of
from petune.tasks.base import Table


def rows_of_things(things: Any, column: str, source: str) -> Table:
    """A table of things alone, or of rows that hold them in their column.

    Raises:
        DataError: a single path or picture in place of a list.

    Examples:
        >>> rows_of_things(["a.png", {"image": "b.png"}], "image", "the images").rows
        [{'image': 'a.png'}, {'image': 'b.png'}]
    """
    if hasattr(things, "getbands") or isinstance(things, str | bytes):
        rows_of(str(things), (column,))  # says what was expected
    # What has `bytes` or `array` is a thing, as `datasets` keeps it, and no row.
    rows = [it if isinstance(it, dict) and column in it else {column: it} for it in things]
    return Table(rows, (column,), source)
