"""Answers inside of contexts: what a cell says of them, and whether it is true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from petune.errors import DataError
from petune.tasks._columns import literal, need_characters
from petune.tasks._labels import is_missing

FORMS = 'A cell holds {"text": [...], "answer_start": [...]}, a list of {"text", "answer_start"}, or a text.'
UNREADABLE = "A csv cell holds that dict as text, written by json.dumps or by str; a single text needs no dict."


class Span(NamedTuple):
    """A piece of a context: `context[start:end] == text`."""

    text: str
    start: int
    end: int


class Gold(NamedTuple):
    """The right answers of a row; none: the context holds no answer."""

    spans: tuple[Span, ...]
    guessed: bool
    """Whether no offset was given and the text occurs several times, of which the first was taken."""


def gold_of(place: str, cell: Any, start: Any, context: str) -> Gold:
    """What a row's cell says is right, each answer checked against the context.

    Args:
        cell: SQuAD's dict of lists or arrays, a list of dicts, a text, or any of these as JSON; empty where nothing
            answers.
        start: the offset of a text, from a column of its own; None: it is looked for.

    Raises:
        DataError: another form, an answer that the context does not hold at its offset, with the row's place.

    Examples:
        >>> gold_of("row 0", {"text": ["Oslo"], "answer_start": [9]}, None, "She left Oslo.").spans
        (Span(text='Oslo', start=9, end=13),)
    """
    spans, guessed = [], False
    for text, offset in _pairs(place, _read(place, cell), start):
        spans.append(_checked(place, text, offset, context))
        guessed |= offset is None and context.count(text) > 1
    return Gold(tuple(dict.fromkeys(spans)), guessed)


def is_empty(place: str, cell: Any) -> bool:
    """Whether a cell says that nothing in the context answers the question.

    Raises:
        DataError: a dict or list that is written as text and cannot be read, with the row's place.

    Examples:
        >>> [is_empty("row 0", cell) for cell in ({"text": [], "answer_start": []}, "", "Oslo")]
        [True, True, False]
    """
    cell = _read(place, cell)
    if isinstance(cell, Mapping) and "text" in cell:
        return is_empty(place, cell["text"]) if isinstance(cell["text"], str) else not len(cell["text"])
    return is_missing(cell) or not (cell.strip() if isinstance(cell, str) else cell)


def _read(place: str, cell: Any) -> Any:
    """A cell that is a dict or a list written as text (a csv file has no other way) as what was written."""
    cell = _plain(cell)
    if not isinstance(cell, str) or not cell.strip().startswith(("{", "[{", "[]")):
        return cell
    try:
        return literal(cell)
    except ValueError:
        raise DataError(
            f"{place}: the answers {_short(cell)} cannot be read.", expected=FORMS, fix=UNREADABLE
        ) from None


def _plain(cell: Any) -> Any:
    """Arrays as lists, also inside of a dict: a parquet file that pandas has read holds them."""
    if isinstance(cell, Mapping):
        return {key: _plain(value) for key, value in cell.items()}
    if isinstance(cell, (list, tuple)):
        return [_plain(value) for value in cell]
    return _plain(cell.tolist()) if hasattr(cell, "tolist") else cell


def _pairs(place: str, cell: Any, start: Any) -> list[tuple[Any, Any]]:
    """(text, offset) of every answer; an offset of None is to be looked for."""
    if is_missing(cell):
        return []
    if isinstance(cell, str):
        return [(cell, None if is_missing(start) or start == "" else start)] if cell.strip() else []
    if isinstance(cell, Mapping) and "text" in cell:
        texts, starts = (_listed(cell.get(key)) for key in ("text", "answer_start"))
        starts = starts if starts else [None] * len(texts)
        if len(texts) != len(starts):
            raise DataError(
                f"{place}: there are {len(texts)} answers and {len(starts)} offsets.",
                expected="Each answer has the offset of its first character in the context.",
            )
        return list(zip(texts, starts, strict=True))
    if isinstance(cell, (list, tuple)):
        return [pair for item in cell for pair in _pairs(place, item, None)]
    raise DataError(f"{place}: the answers are {_short(cell)}, a {type(cell).__name__}.", expected=FORMS)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _checked(place: str, text: Any, offset: Any, context: str) -> Span:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: the answer {text!r} is no text.", expected=FORMS)
    need_characters(text, place, "the answer")
    found = context.find(text)
    if offset is None and found >= 0:
        return Span(text, found, found + len(text))
    start = None if offset is None else _whole(place, offset)
    if start is not None and start >= 0 and context.startswith(text, start):
        return Span(text, start, start + len(text))
    where = "" if start is None else f" at {start}"
    there = "" if start is None else f": {context[start : start + len(text)]!r} is there" if start >= 0 else ""
    fix = "Correct the answer, or the context; an empty answer says that there is none."
    if found >= 0:
        fix = f"It occurs at {_places(text, context, start or 0)}: correct answer_start."
    raise DataError(
        f"{place}: the answer {_short(text)} is not in its context{where}{there}.",
        expected="context[answer_start : answer_start + len(answer)] must be the answer, counted in characters.",
        fix=fix,
    )


def _places(text: str, context: str, wanted: int) -> str:
    """Where a text occurs, the place nearest to the wanted one first."""
    places = [at for at in range(len(context)) if context.startswith(text, at)]
    return " and ".join(map(str, sorted(places, key=lambda at: abs(at - wanted))[:3]))


def _whole(place: str, offset: Any) -> int:
    try:
        number = float(offset)
    except (TypeError, ValueError):
        number = 0.5
    if isinstance(offset, bool) or not number.is_integer():
        raise DataError(
            f"{place}: the offset {offset!r} is no whole number.", expected="Characters are counted from 0."
        )
    return int(number)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
