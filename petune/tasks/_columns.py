"""Finding the columns of a table: as named by the user, or by the names that people give them."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from petune.errors import DataError
from petune.lookup import near
from petune.tasks.base import Table, Task


class Names(NamedTuple):
    """Usual names in two tiers: one match in the first settles it, the second counts only where the first is silent."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    always: tuple[str, ...] = ()
    """Names that count in either tier."""


TEXT = Names(
    ("text",),
    (
        "sentence", "review", "content", "document", "body", "comment", "message", "tweet", "question", "utterance",
        "snippet", "statement", "abstract", "headline", "title", "query", "input",
        "sentence1", "text1", "question1", "premise", "passage", "context", "paragraph",
    ),
    # Second texts: their presence makes a first text ambiguous, so that none is dropped in silence.
    ("text2", "text_2", "text_b", "text_pair", "sentence2", "sentence_2", "sentence_b", "question2", "hypothesis"),
)  # fmt: skip
LABEL = Names(
    ("label", "labels"),
    ("class", "target", "category", "sentiment", "score", "rating", "stars", "topic", "intent", "emotion", "y"),
)
TOKENS = Names(("tokens", "words"), ("text", "sentence"))
CLOSE = 0.75
"""How alike a column and a usual name must be for one to be taken for a slip of the other; 1 is the same."""
TAGS = Names(("tags", "ner_tags"), ("labels", "label", "ner"))


def some_rows(table: Table) -> None:
    """Refuses a table without rows.

    Raises:
        DataError: for no rows.
    """
    if not len(table):
        raise DataError(f"{table.source} holds no rows.", expected="At least one row was expected.")


def named_column(table: Table, name: str, knob: str) -> str:
    """`name`, if the table has it.

    Raises:
        DataError: with the columns that there are, and the near one.
    """
    if name in table.columns:
        return name
    raise DataError(
        f"{table.source} has no column {name!r}.",
        expected=f"Its columns are {_listed(table.columns)}.",
        fix=f"{near(name, table.columns)} Pass {knob}=... with one of them.",
    )


def find_column(table: Table, given: str | None, knob: str, names: Names) -> str:
    """The column that the user gave for a knob, or the one with a usual name (upper and lower case are the same).

    Raises:
        DataError: no such column, none with a usual name, or several.

    Examples:
        >>> find_column(Table([], ("id", "Review", "stars")), None, "text", TEXT)
        'Review'
    """
    if given is not None:
        return named_column(table, given, knob)
    matches = usual(table, names)
    if len(matches) == 1:
        return matches[0]
    if not matches:
        usually = ", ".join(names.first + names.second[:4])
        raise DataError(
            f"{table.source} has no column with a usual name for {knob}.",
            expected=f"Usual are {usually}, ...; its columns are {_listed(table.columns)}.",
            fix=f"{_misspelt(table, names)}Pass {knob}=... with one of them.",
        )
    raise DataError(
        f"{table.source} has {len(matches)} columns that could be the {knob}: {_listed(matches)}.",
        expected=f"One was expected among its columns {_listed(table.columns)}.",
        fix=f"Pass {knob}={matches[0]!r}" + (" (and text_pair=... for a second text)." if knob == "text" else "."),
    )


def columns_found(task: Task, given: Task, *knobs: str) -> list[str]:
    """Sentences on the columns that `learn` found, beyond those that the `given` task named."""
    return [
        f"{knob} column: {getattr(task, knob)!r} ({knob}=... names another)."
        for knob in knobs
        if getattr(given, knob) is None and getattr(task, knob) is not None
    ]


def labels_found(task: Task, given: Task, noun: str = "labels") -> list[str]:
    """A sentence on the labels that `learn` found, if the `given` task named none."""
    if given.labels or not task.labels:
        return []
    shown = ", ".join(task.labels[:10]) + (", ..." if len(task.labels) > 10 else "")
    return [f"{len(task.labels)} {noun}: {shown}."]


def usual(table: Table, names: Names) -> list[str]:
    """The columns with a usual name, of the first tier that has any, and those that always count."""
    known = {column: column.strip().lower() for column in table.columns}
    tier = next((tier for tier in (names.first, names.second) if not set(tier).isdisjoint(known.values())), ())
    return [column for column, name in known.items() if name in tier + names.always]


def find_text_and_label(table: Table, text: str | None, label: str | None, pair: str | None = None) -> tuple[str, str]:
    """The text and the label column; of exactly two columns, one found leaves the other.

    Args:
        pair: the column of the second text, which is neither.

    Raises:
        DataError: no such column, none with a usual name, or several.
    """
    if pair is not None and pair != text:
        named_column(table, pair, "text_pair")
        table = dataclasses.replace(table, columns=tuple(column for column in table.columns if column != pair))
    if len(table.columns) == 2 and (text is None or label is None):
        text, label = _of_two(table, text, label)
    return find_column(table, text, "text", TEXT), find_column(table, label, "label", LABEL)


def cells(table: Table, column: str) -> Iterator[tuple[str, Any]]:
    """(place, value) of every row; a row without the key gives None.

    Examples:
        >>> list(cells(Table([{"a": 1}, {}], ("a",)), "a"))
        [('row 0', 1), ('row 1', None)]
    """
    for index, row in enumerate(table.rows):
        yield table.place(index), row.get(column)


def place_of(table: Table, index: int, column: str) -> str:
    """Where a cell is, in words.

    Examples:
        >>> place_of(Table([{"a": 1}], ("a",)), 0, "a")
        "row 0, column 'a'"
    """
    return f"{table.place(index)}, column {column!r}"


def cells_of_column(table: Table, column: str) -> Iterator[tuple[str, Any]]:
    """(place with the column, value) of every row; a row without the key gives None."""
    for place, value in cells(table, column):
        yield f"{place}, column {column!r}", value


def literal(text: str) -> Any:
    """A list or dict that was written as text, by JSON or as Python shows it: a csv file has no other way.

    Raises:
        ValueError: it is neither.

    Examples:
        >>> literal('["red", null]'), literal("['red', None]")
        (['red', None], ['red', None])
    """
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise ValueError(str(error)) from error


def need_characters(value: str, place: str, noun: str) -> None:
    """Refuses a string with half of a surrogate pair, which is no character: neither tokenizers nor files take it.

    Raises:
        DataError: with the row's place.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: {noun} holds {value[error.start]!a} at position {error.start}, a lone surrogate.",
            expected="Half of a surrogate pair is no character.",
            fix="Read the file with the right encoding, or drop it: text.encode('utf-8', 'ignore').decode().",
        ) from None


def _of_two(table: Table, text: str | None, label: str | None) -> tuple[str | None, str | None]:
    """Fills in what is certain: given or usual names first, then the one column that is obviously running text."""
    if text is None and label is None:
        texts, labels = usual(table, TEXT), usual(table, LABEL)
        text = texts[0] if len(texts) == 1 else None
        label = labels[0] if len(labels) == 1 else None
    if text is None and label is None:
        wordy = [column for column in table.columns if _is_running_text(table, column)]
        text = wordy[0] if len(wordy) == 1 else None
    other = {table.columns[0]: table.columns[1], table.columns[1]: table.columns[0]}
    if text is None and label in other and _is_strings(table, other[label]):
        text = other[label]
    if label is None and text in other and not _is_running_text(table, other[text]):
        label = other[text]
    return text, label


def _is_strings(table: Table, column: str) -> bool:
    return all(isinstance(value, str) for _, value in cells(table, column))


def _is_running_text(table: Table, column: str) -> bool:
    """Strings of several words, hardly any of them twice: labels repeat, texts do not."""
    values = [value for _, value in cells(table, column)]
    if not values or not all(isinstance(value, str) for value in values):
        return False
    several = sum(len(value.split()) > 1 for value in values)
    return several > len(values) / 2 and len(set(values)) > len(values) / 2


def _misspelt(table: Table, names: Names) -> str:
    """A question about the column whose name is closest to a usual one, if any is close; a usual name is no slip."""
    wanted = names.first + names.second
    known = {name for some in (TEXT, LABEL, TOKENS, TAGS) for name in (*some.first, *some.second, *some.always)}
    odd = {column.strip().lower(): column for column in table.columns if column.strip().lower() not in known}
    close = ((name, found) for name in wanted for found in difflib.get_close_matches(name, odd, n=1, cutoff=CLOSE))
    found = max(close, key=lambda pair: difflib.SequenceMatcher(None, *pair).ratio(), default=None)
    return "" if found is None else f"{near(found[0], [odd[found[1]]])} "


def _listed(columns: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(repr, columns)) or "none"
