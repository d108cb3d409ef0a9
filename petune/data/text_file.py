"""Bytes of a text file to text, and lines that can be named in messages."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from petune.errors import DataError

_LINE_END = re.compile(rb"\r\n|\r|\n")


def text_of(path: Path) -> str:
    """The text of a UTF-8 file; a byte order mark is accepted and taken off.

    Raises:
        DataError: an empty file, another encoding (with the byte and its line), NUL bytes.
    """
    raw = path.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _encoding(path, "is UTF-16 text: it starts with that byte order mark")
    body = raw.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise DataError(
            f"{path.name} is empty.", expected="A data file needs at least one row.", fix=f"Look at {path}."
        )
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + len(raw) - len(body)
        what = f"is not UTF-8 text: byte {offset} (line {_line_at(raw, offset)}) is 0x{raw[offset]:02x}"
        raise _encoding(path, what) from error
    if "\0" in text:
        offset = raw.index(b"\0")
        raise _encoding(path, f"holds a NUL byte (byte {offset}, line {_line_at(raw, offset)})")
    return text


def lines_of(text: str) -> Iterator[str]:
    r"""The lines with their ends, cut at LF, CRLF and CR only.

    `str.splitlines` would also cut at form feeds and U+2028, which may stand inside a value, and the line numbers of
    an editor would no longer hold.

    Examples:
        >>> list(lines_of("a\u2028b\r\nc"))
        ['a\u2028b\r\n', 'c']
    """
    return iter(io.StringIO(text, newline=""))


def at_line(name: str, numbers: Sequence[int]) -> Callable[[int], str]:
    """The `place` of a table whose row `i` starts on line `numbers[i]` (from 1).

    Examples:
        >>> at_line("train.csv", [2, 3])(1)
        'train.csv, line 3'
    """
    return lambda index: f"{name}, line {numbers[index]}"


def _line_at(raw: bytes, offset: int) -> int:
    return len(_LINE_END.findall(raw, 0, offset)) + 1


def _encoding(path: Path, what: str) -> DataError:
    return DataError(
        f"{path.name} {what}.",
        expected="Text files are read as UTF-8, with or without a byte order mark.",
        fix="Save the file as UTF-8, for example with `iconv -f LATIN1 -t UTF-8` when it came as Latin-1.",
    )
