"""Comma and tab separated files, read strictly, with the line number of every row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from petune.data.records import unique
from petune.data.text_file import at_line, lines_of, text_of
from petune.errors import DataError
from petune.tasks._labels import NUMBER
from petune.tasks.base import Table

_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}


def read_csv(path: Path) -> Table:
    """A comma separated file with a header; see `read_delimited`."""
    return read_delimited(path, ",")


def read_tsv(path: Path) -> Table:
    """A tab separated file with a header; see `read_delimited`."""
    return read_delimited(path, "\t")


def read_delimited(path: Path, delimiter: str) -> Table:
    """The rows below the header. All values are strings: `"3"` and `"NA"` stay what the file says, tasks decide.

    Fields may be quoted with `"` and then hold delimiters and line ends. Blank lines are skipped. `place` names the
    line on which a row starts.

    Raises:
        DataError: broken quotes, too many or too few fields (with the line), a column name that occurs twice,
            another delimiter, no rows, no UTF-8.
    """
    records = _records(path, delimiter)
    _, header = next(records)
    _check_header(header, path, delimiter)
    columns = unique(header, path.name)
    rows: list[dict[str, str]] = []
    lines: list[int] = []
    for line, fields in records:
        if len(fields) != len(columns):
            raise _ragged(path, line, fields, columns, delimiter)
        if len(columns) > 1 and fields == header:
            raise DataError(
                f"{path.name}, line {line} is the header again.",
                expected="A header stands on the first line only.",
                fix="Were two files joined? Drop that line.",
            )
        rows.append(dict(zip(columns, fields, strict=True)))
        lines.append(line)
    if not rows:
        raise DataError(
            f"{path.name} holds a header ({', '.join(columns)}) and no rows.", expected="At least one row is needed."
        )
    _refuse_rows_as_header(path, columns, rows)
    return Table(rows, columns, path.name, at_line(path.name, lines))


def _refuse_rows_as_header(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    """A file without a header gives its first row away: a column named like a value in it, or like a number.

    (pandas numbers the columns of a frame without names from 0; such a header is one.)
    """
    if len(columns) < 2 or columns == tuple(map(str, range(len(columns)))):
        return
    for column in columns:
        repeated = bool(column.strip()) and any(row[column] == column for row in rows)
        if repeated or NUMBER.fullmatch(column):
            reason = "its column holds that value again" if repeated else "it is a number"
            raise DataError(
                f"{path.name}, line 1 seems to be a row and no header: {column!r} is no column name, {reason}.",
                expected="The first line names the columns.",
                fix="Put a line such as text,label above it, or pass pandas.read_csv(path, names=['text', 'label']).",
            )


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(the line a record starts on, its fields), blank lines left out; the first is the header."""
    reader = csv.reader(lines_of(text_of(path)), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            with _long_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _quotes(path, start, reader.line_num, error, delimiter) from error
        if fields:
            yield start, fields


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lifts csv's limit of 131,072 characters a field: it is one number for the whole process, so it goes back."""
    before = csv.field_size_limit(2**31 - 1)  # a C long is that wide everywhere
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_header(header: list[str], path: Path, delimiter: str) -> None:
    """A file cut at the wrong character has one column, whose name holds the right one."""
    others = [other for other in _NAMES if other != delimiter and other in header[0]]
    if len(header) == 1 and others:
        raise DataError(
            f"{path.name} has a single column, {header[0]!r}: it seems to be separated by {_NAMES[others[0]]}s.",
            expected=f"A {path.suffix.lower()} file must be separated by {_NAMES[delimiter]}s.",
            fix=f"Pass pandas.read_csv(path, sep={others[0]!r}), or save the file with {_NAMES[delimiter]}s.",
        )


def _ragged(path: Path, line: int, fields: list[str], columns: tuple[Any, ...], delimiter: str) -> DataError:
    side = "more" if len(fields) > len(columns) else "fewer"
    return DataError(
        f"{path.name}, line {line} has {side} fields ({len(fields)}) than the header ({len(columns)}).",
        expected=f"Each row must hold {', '.join(columns)}.",
        fix=f'Put a field that holds a {_NAMES[delimiter]} in double quotes ("...").',
    )


def _quotes(path: Path, start: int, end: int, error: csv.Error, delimiter: str) -> DataError:
    reason = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
    where = f"line {start}" if end <= start else f"the row on lines {start} to {end}"
    return DataError(
        f"{path.name}, {where} has broken quotes: {reason}.",
        expected='A field that starts with " must end with ", and a " inside it must be doubled ("").',
        fix=f"Repair it, or if quotes mean nothing in this file: pandas.read_csv(path, sep={delimiter!r}, quoting=3).",
    )
