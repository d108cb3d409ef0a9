"""CoNLL files: one token per line with its tag in the last column, a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from petune.data.text_file import at_line, lines_of, text_of
from petune.errors import DataError
from petune.tasks.base import Table

_SPACES = re.compile(" +")


def read_conll(path: Path) -> Table:
    """One row per sentence, `{"tokens": [...], "tags": [...]}`: the first and the last column.

    Columns are separated by tabs, or by spaces in a line without a tab. `-DOCSTART-` lines are skipped. `place` names
    the line of a sentence's first token.

    Raises:
        DataError: a line with another number of columns than the first, a missing token or tag, no sentence at all.
    """
    rows: list[dict[str, list[str]]] = []
    starts: list[int] = []
    inside = False
    for line, columns in _lines(path):
        if columns and not inside:
            rows.append({"tokens": [], "tags": []})
            starts.append(line)
        if columns:
            rows[-1]["tokens"].append(columns[0])
            rows[-1]["tags"].append(columns[-1])
        inside = bool(columns)
    if not rows:
        raise DataError(f"{path.name} holds no sentence.", expected=_EXPECTED)
    return Table(rows, ("tokens", "tags"), path.name, at_line(path.name, starts))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns); no columns where a sentence ends."""
    first: tuple[int, int] | None = None
    for number, line in enumerate(lines_of(text_of(path)), start=1):
        line = line.strip("\r\n")
        if not line.strip() or line.startswith("-DOCSTART-"):
            yield number, []
            continue
        columns = _columns(line)
        first = first or (number, len(columns))
        if len(columns) < 2 or not columns[0] or not columns[-1]:
            raise DataError(
                f"{path.name}, line {number} lacks a token or a tag: {line[:60]!r}.",
                expected=_EXPECTED,
                fix=_plain(path) or "Add what is missing.",
            )
        if len(columns) != first[1]:
            raise DataError(
                f"{path.name}, line {number} has {len(columns)} columns, line {first[0]} has {first[1]}.",
                expected=_EXPECTED,
                fix=f"If tokens hold spaces, separate the columns by tabs. {_plain(path)}".strip(),
            )
        yield number, columns


def _columns(line: str) -> list[str]:
    """Cut at tabs or spaces only: a no-break space may be part of a token."""
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return _SPACES.split(line.strip(" "))


def _plain(path: Path) -> str:
    """The way out for a text file that is no CoNLL file."""
    return "Pass plain texts as [{'text': line} for line in file]." if path.suffix.lower() == ".txt" else ""


_EXPECTED = (
    "A CoNLL file has one token per line, the same number of columns on every line, the tag in the last, "
    "and a blank line after each sentence."
)
