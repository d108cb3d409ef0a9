"""JSON rows: one object per line, or one list of objects."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from petune.data.records import table_of
from petune.data.squad_file import read_squad, squad_of
from petune.data.text_file import at_line, lines_of, text_of
from petune.errors import DataError
from petune.tasks.base import Table

_BLANK = re.compile(r"[ \t\r\n]*")


def read_json(path: Path) -> Table:
    """The objects of a `.jsonl` or `.json` file: one per line, or a list of them; `place` names their lines.

    Files in SQuAD's nested form become a row per question.

    Raises:
        DataError: broken JSON, a key that occurs twice, an item that is no object, each with its line.
    """
    text = text_of(path)
    if (articles := squad_of(text)) is not None:
        return read_squad(articles, path)
    pairs = list(_list(text, path) if text.lstrip().startswith("[") else _lines(text, path))
    numbers = [line for line, _ in pairs]
    line = at_line(path.name, numbers)
    # Several rows on one line are told apart by their numbers alone.
    place = line if len(set(numbers)) == len(numbers) else lambda row: f"{line(row)}, row {row}"
    return table_of([item for _, item in pairs], path.name, place)


def _lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            raise _broken(path, number, f"{error.msg}, column {error.colno}") from error
        except ValueError as error:
            raise _broken(path, number, str(error)) from error


def _list(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Decodes item by item, because `json.loads` of the whole would forget on which line each began."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    position = _after_blank(text, text.index("[") + 1)
    line, counted, more = 1, 0, text[position : position + 1] != "]"
    try:
        while more:
            line, counted = line + text.count("\n", counted, position), position
            item, position = decoder.raw_decode(text, position)
            yield line, item
            position = _after_blank(text, position)
            more = text[position : position + 1] == ","
            position = _after_blank(text, position + 1) if more else position
        if text[position : position + 1] != "]" or _after_blank(text, position + 1) != len(text):
            raise json.JSONDecodeError("expecting ',' between items and ']' at the end", text, position)
    except json.JSONDecodeError as error:
        raise _broken(path, error.lineno, f"{error.msg}, column {error.colno}") from error
    except ValueError as error:
        raise _broken(path, line, str(error)) from error


def _after_blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys occur once; plain `json` would keep the last value without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} occurs twice")
    return made


def _broken(path: Path, line: int, reason: str) -> DataError:
    return DataError(
        f"{path.name}, line {line} is not valid JSON: {reason}.",
        expected="The file must hold one JSON object per line, or one list of objects.",
        fix="Repair that line.",
    )
