"""Where the two entities of a row are: in columns of spans, or marked in the text itself."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from petune.errors import DataError
from petune.tasks._columns import literal, need_characters
from petune.tasks._labels import is_missing
from petune.tasks.base import Table

HEADS = ("head", "subject", "subj", "e1", "entity1", "entity_1", "h", "arg1")
TAILS = ("tail", "object", "obj", "e2", "entity2", "entity_2", "t", "arg2")
"""Usual names, in pairs: of a column of spans, or of what stands before `_start` and `_end`."""
MARK = re.compile(r"\[(/?)E([12])\]|<(/?)e([12])>", re.IGNORECASE)
"""The marks of a text that is marked already: as here, or as in SemEval's files."""
WHOLE = re.compile(r"\s*\d+\s*")


class Entity(NamedTuple):
    """Characters `start` up to, and not including, `end`; the type may be empty."""

    start: int
    end: int
    type: str = ""


class Relation(NamedTuple):
    """A text and its two entities."""

    text: str
    head: Entity
    tail: Entity


def span_columns(table: Table, head: str | None, tail: str | None) -> tuple[str | None, str | None]:
    """The columns of the two spans, as given or by their usual names; None and None: the texts are marked.

    Raises:
        DataError: a name that is neither a column nor the beginning of two, or one entity without the other.
    """
    for knob, name in (("head", head), ("tail", tail)):
        if name is not None and not _is_there(table, name):
            raise DataError(
                f"{table.source} has neither a column {name!r} nor {name}_start and {name}_end.",
                expected=f"Its columns are {', '.join(map(repr, table.columns))}.",
                fix=f"Pass {knob}=... with a column of spans, or with what stands before _start and _end.",
            )
    if head is not None and tail is not None:
        return head, tail
    pairs = [(one, two) for one, two in zip(HEADS, TAILS, strict=True) if _is_there(table, one)]
    found = next(((one, two) for one, two in pairs if _is_there(table, two)), (None, None))
    return (head or found[0], tail or found[1]) if (head or tail) is None or found[0] else _one_alone(table, head, tail)


def _one_alone(table: Table, head: str | None, tail: str | None) -> tuple[str, str]:
    lacking = "tail" if head is not None else "head"
    raise DataError(
        f"{table.source}: the column of the {lacking} was not found.",
        expected=f"A row has two entities; its columns are {', '.join(map(repr, table.columns))}.",
        fix=f"Pass {lacking}=...",
    )


def _is_there(table: Table, name: str) -> bool:
    return name in table.columns or {f"{name}_start", f"{name}_end"} <= set(table.columns)


def relation_of(
    row: Mapping[str, Any], place: str, text: str, head: str | None, tail: str | None, inclusive: bool | None
) -> Relation:
    """The text of a row and its two entities, each checked.

    Args:
        text: the column of the text, or of its words.
        head, tail: the columns of the spans; a row without them must be marked.
        inclusive: whether the end of a span belongs to it; None: of words in two columns, as TACRED has them.

    Raises:
        DataError: with the row's place.

    Examples:
        >>> relation_of({"text": "[E1] Ann [/E1] saw [E2]Oslo[/E2]"}, "row 0", "text", None, None, None)
        Relation(text='Ann saw Oslo', head=Entity(start=0, end=3, type=''), tail=Entity(start=8, end=12, type=''))
    """
    written, bounds = _text_of(row.get(text), place, text)
    names = [name for name in (head, tail) if name is not None and _has(row, name)]
    if len(names) < 2:
        if bounds is None and MARK.search(written):
            return _unmarked(written, place)
        what = f"column {head!r} or {tail!r} is missing" if head else "the text marks no entities"
        raise DataError(
            f"{place}: {what}.",
            expected="A row has two entities: spans in columns, or '[E1] ... [/E1]' and '[E2] ... [/E2]' in its text.",
            fix="Fill them in or drop the row."
            if head
            else f"Name the columns of the spans, head=... and tail=..., of {', '.join(map(repr, row))}.",
        )
    one, two = (_entity(row, place, name, written, bounds, inclusive) for name in names)
    return Relation(written, one, two)


def _text_of(value: Any, place: str, column: str) -> tuple[str, list[tuple[int, int]] | None]:
    """The text; and where its words are, if it was given as words."""
    if isinstance(value, (list, tuple, np.ndarray)) and len(value) and all(isinstance(word, str) for word in value):
        ends = list(itertools.accumulate(len(word) + 1 for word in value))
        bounds = [(end - len(word) - 1, end - 1) for word, end in zip(value, ends, strict=True)]
        value = " ".join(value)
    else:
        bounds = None
    if is_missing(value) or not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{place}: the text in column {column!r} is {value!r}.",
            expected="A text, or a list of its words, was expected.",
            fix="Fill it in or drop the row.",
        )
    need_characters(value, place, f"the text in column {column!r}")
    return value, bounds


def _has(row: Mapping[str, Any], name: str) -> bool:
    return not is_missing(row.get(name)) or not is_missing(row.get(f"{name}_start"))


def _entity(
    row: Mapping[str, Any], place: str, name: str, text: str, bounds: list[tuple[int, int]] | None,
    inclusive: bool | None,
) -> Entity:  # fmt: skip
    """One entity in characters, whatever form it was given in."""
    value, kind = _unwritten(row.get(name)), row.get(f"{name}_type")
    apart = is_missing(value)
    pair: Any = (row.get(f"{name}_start"), row.get(f"{name}_end")) if apart else value
    if isinstance(value, Mapping):
        pair, kind = value.get("pos", (value.get("start"), value.get("end"))), value.get("type", kind)
    if not isinstance(pair, (list, tuple, np.ndarray)) or len(pair) != 2:
        raise _bad(place, name, value, "A span is (start, end), a dict with these keys, or two columns.")
    if not all(_is_whole(bound) for bound in pair):
        raise _bad(place, name, tuple(pair), "The start and the end are whole numbers.")
    start, end = (int(bound) for bound in pair)
    units, many = ("characters", len(text)) if bounds is None else ("words", len(bounds))
    if inclusive if inclusive is not None else apart and bounds is not None:
        end += 1
    if not 0 <= start < end <= many:
        raise _bad(place, name, (start, end), f"0 <= start < end <= {many} was expected: the text has {many} {units}.")
    if bounds is not None:
        start, end = bounds[start][0], bounds[end - 1][1]
    if not text[start:end].strip():
        raise _bad(place, name, (start, end), "There is nothing but white space.")
    return Entity(start, end, "" if is_missing(kind) else str(kind).strip())


def _unwritten(value: Any) -> Any:
    """A span that is written as text (a csv file has no other way) as what was written; all else as it is."""
    if not isinstance(value, str) or not value.strip().startswith(("{", "[", "(")):
        return value
    try:
        return literal(value.strip())
    except ValueError:  # the error that follows shows the text itself
        return value


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, (float, np.floating)):
        return bool(np.isfinite(value)) and float(value).is_integer()
    return isinstance(value, (int, np.integer)) or (isinstance(value, str) and WHOLE.fullmatch(value) is not None)


def _bad(place: str, name: str, value: Any, expected: str) -> DataError:
    return DataError(f"{place}: the span of {name!r} is {value!r}.", expected=expected, fix="Correct or drop the row.")


def _unmarked(text: str, place: str) -> Relation:
    """A marked text as plain text and spans; of the spaces on both sides of a mark one stays."""
    plain, bounds, last = "", dict[str, int](), 0
    for mark in MARK.finditer(text):
        plain += text[last : mark.start()]
        key = f"{mark[1] or mark[3] or ''}{mark[2] or mark[4]}"
        if key in bounds:
            raise _marks(place, f"the mark {mark[0]!r} occurs twice")
        bounds[key] = len(plain)
        last = mark.end()
        if not plain or plain[-1].isspace():
            last += text[last : last + 1].isspace()
    plain += text[last:]
    if set(bounds) != {"1", "/1", "2", "/2"}:
        raise _marks(place, "not both entities are marked")
    found = [_trimmed(plain, bounds[number], bounds[f"/{number}"]) for number in "12"]
    if any(one.start >= one.end for one in found):
        raise _marks(place, "a marked entity is empty")
    return Relation(plain, *found)


def _trimmed(text: str, start: int, end: int) -> Entity:
    """The span without white space at its ends."""
    inside = text[start:end]
    return Entity(start + len(inside) - len(inside.lstrip()), start + len(inside.rstrip()))


def _marks(place: str, what: str) -> DataError:
    return DataError(
        f"{place}: {what}.",
        expected="Each of '[E1]', '[/E1]', '[E2]' and '[/E2]' (or '<e1>' ...) once, around the two entities.",
        fix="Correct or drop the row.",
    )
