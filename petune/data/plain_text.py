"""Plain texts: a file with one text a line, or a list of strings, for tasks whose rows are texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from petune.data.text_file import at_line, lines_of, text_of
from petune.tasks.base import Table

COLUMN = "text"


def read_lines(path: Path) -> Table:
    """One row per line that is not blank, in the column `text`; `place` names the line.

    Raises:
        DataError: an empty file, another encoding than UTF-8.
    """
    found = [(number, line.strip()) for number, line in enumerate(lines_of(text_of(path)), 1)]
    rows = [{COLUMN: line} for _, line in found if line]
    return Table(rows, (COLUMN,), path.name, at_line(path.name, [number for number, line in found if line]))


def is_plain(data: Any) -> bool:
    """Whether something is a list of strings.

    Examples:
        >>> is_plain(["a film", "a house"]), is_plain(["a film", 3]), is_plain([]), is_plain("a film")
        (True, False, False, False)
    """
    listed = isinstance(data, Sequence) and not isinstance(data, str | bytes)
    return listed and len(data) > 0 and all(isinstance(item, str) for item in data)


def table_of_texts(texts: Sequence[str]) -> Table:
    """One row per string, in the column `text`."""
    return Table([{COLUMN: text} for text in texts], (COLUMN,), "the data", lambda index: f"row {index}")
