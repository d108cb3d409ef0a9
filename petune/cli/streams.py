"""Rows that flow: from a file or stdin, a few at a time, to a file or stdout; only those few are in memory."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from petune.cli.usage import UsageError
from petune.errors import DataError
from petune.lookup import near

DELIMITERS = {"csv": ",", "tsv": "\t"}
FORMS = (*DELIMITERS, "jsonl")
STANDARD = "-"
"""stdin or stdout."""


class Chunk(NamedTuple):
    """A few rows, and the line on which each began."""

    rows: list[dict[str, Any]]
    lines: list[int]


def form_of(path: str, given: str | None) -> str:
    """The form of a file: the given one, or by its name.

    Raises:
        UsageError: neither says it.

    Examples:
        >>> form_of("a.csv", None), form_of("-", "jsonl")
        ('csv', 'jsonl')
    """
    form = given or ("csv" if path == STANDARD else Path(path).suffix.lower().removeprefix("."))
    if form not in FORMS:
        fix = near(form, FORMS) if given else "Say it with --format."
        raise UsageError(f"{path} is of no form that can be streamed.", expected=f"One of {', '.join(FORMS)}.", fix=fix)
    return form


def chunks(path: str, form: str, size: int) -> Iterator[Chunk]:
    """The rows of a file or of stdin, `size` at a time.

    Raises:
        DataError: no such file; a row that cannot be read, with its line; bytes that are no UTF-8.
    """
    with _opened(path) as stream:
        name = "stdin" if path == STANDARD else Path(path).name
        rows = _objects(stream, name) if form == "jsonl" else _fields(stream, name, DELIMITERS[form])
        try:
            while some := list(islice(rows, size)):
                yield Chunk([row for _, row in some], [line for line, _ in some])
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is not UTF-8 text (byte 0x{error.object[error.start]:02x}).") from error


def need_other(path: str, out: str) -> None:
    """Passes when the answers do not go where the rows come from.

    Raises:
        UsageError: both are one file, which would be gone.
    """
    if STANDARD not in (path, out) and os.path.exists(out) and os.path.exists(path) and os.path.samefile(path, out):
        raise UsageError(f"--out {out} is the file of the rows.", fix="Name another file for the answers.")


@contextlib.contextmanager
def written(path: str, form: str) -> Iterator[Sink]:
    """Where rows go. A file appears under its name when all rows are in it; one that broke off leaves nothing.

    Raises:
        UsageError: the file cannot be written.
    """
    if path == STANDARD:
        yield Sink(sys.stdout, form)
        return
    staged = Path(f"{path}.part")
    try:
        stream = staged.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}).") from error
    try:
        with stream:
            yield Sink(stream, form)
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


class Sink:
    """Takes rows; the columns of the first one are the columns of all.

    Examples:
        >>> sink = Sink(sys.stdout, "csv")
        >>> sink.write([{"text": "a, b", "p": 0.5}])
        text,p
        "a, b",0.5
    """

    def __init__(self, stream: IO[str], form: str) -> None:
        self._stream, self._form = stream, form
        self._columns: list[str] | None = None
        delimiter = DELIMITERS.get(form, ",")
        self._table = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        # A lone carriage return ends a line for a reader, and Python 3.11 does not quote it by itself.
        self._quoted = csv.writer(stream, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes some rows and hands them on at once, so that a pipe's reader need not wait.

        Raises:
            DataError: a row with a column that the header lacks.
        """
        for row in rows:
            if self._form == "jsonl":
                self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                continue
            if self._columns is None:
                self._columns = list(row)
                self._put(self._columns)
            odd = [key for key in row if key not in self._columns]
            if odd:
                raise DataError(
                    f"A row has the key {odd[0]!r}, which the first row lacks.",
                    expected="A table has the columns of its first row.",
                    fix="Write jsonl: --out answers.jsonl.",
                )
            self._put([cell(row.get(column)) for column in self._columns])
        self._stream.flush()

    def _put(self, cells: list[str]) -> None:
        (self._quoted if any("\r" in one for one in cells) else self._table).writerow(cells)


def cell(value: Any) -> str:
    """A value in a table: texts and numbers as they are, all else as JSON.

    Examples:
        >>> cell("a"), cell(0.5), cell(["a", "b"]), cell(None)
        ('a', '0.5', '["a", "b"]', '')
    """
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[str]]:
    """Text whose line ends stay as they are; the byte order mark is taken off."""
    if path == STANDARD:
        yield io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        return
    try:
        stream = Path(path).open(encoding="utf-8-sig", newline="")  # noqa: SIM115  # closed below
    except OSError as error:
        there = [entry.name for entry in Path(path).parent.iterdir()] if Path(path).parent.is_dir() else []
        fix = near(Path(path).name, [name for name in there if Path(name).suffix[1:] in FORMS])
        raise DataError(f"{path} cannot be read ({error.strerror}).", fix=fix) from error
    with stream:
        yield stream


def _fields(stream: IO[str], name: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    before = csv.field_size_limit(2**31 - 1)
    try:
        header = next(reader, None)
        if not header:
            raise DataError(f"{name} is empty.", expected="A header and rows.")
        while True:
            line = reader.line_num + 1
            fields = next(reader, None)
            if fields is None:
                return
            if fields and len(fields) != len(header):
                side = "more" if len(fields) > len(header) else "fewer"
                raise DataError(
                    f"{name}, line {line} has {side} fields ({len(fields)}) than the header ({len(header)}).",
                    expected=f"Each row must hold {', '.join(header)}.",
                )
            if fields:
                yield line, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num} has broken quotes: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _objects(stream: IO[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(stream, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{name}, line {line} is not valid JSON: {error}.", expected="One object a line."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{name}, line {line} is a {type(row).__name__}.", expected="One object a line.")
        yield line, row
