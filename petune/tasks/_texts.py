"""Text cells, the limit in pieces, and tokenizing with a count of what was cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks._columns import cells, need_characters
from petune.tasks._labels import is_missing
from petune.tasks.base import Example, Table

USUAL_LIMIT = 512
"""Pieces per row when `max_length` is not given and the backbone would take more."""
CHUNK = 1000
"""Rows per tokenizer call: fast enough, and the pieces of a large table are never held twice."""


def need_pad_token(tokenizer: Any) -> None:
    """Refuses a tokenizer that cannot pad.

    Raises:
        BackboneError: with the way to give it a pad token.
    """
    if getattr(tokenizer, "pad_token_id", None) is None:
        raise BackboneError(
            f"The tokenizer {type(tokenizer).__name__} has no pad token.",
            expected="Rows of different lengths are padded into one batch.",
            fix="Set tokenizer.pad_token = tokenizer.eos_token and pass it as Tuner(..., tokenizer=tokenizer).",
        )


def need_fast(tokenizer: Any, expected: str) -> None:
    """Refuses a tokenizer that cannot tell where its pieces come from.

    Args:
        expected: what that is needed for, as a sentence.

    Raises:
        BackboneError: for a slow tokenizer.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise BackboneError(
            f"The tokenizer {type(tokenizer).__name__} is a slow one.",
            expected=expected,
            fix="Load it with AutoTokenizer, or build a PreTrainedTokenizerFast.",
        )


def piece_limit(max_length: int | None, longest: int) -> int:
    """Pieces per row, specials included.

    Raises:
        ConfigError: `max_length` is above what the backbone takes.

    Examples:
        >>> piece_limit(None, 10_000), piece_limit(128, 512)
        (512, 128)
    """
    if max_length is None:
        return min(longest, USUAL_LIMIT)
    if max_length > longest:
        raise ConfigError(
            f"max_length={max_length} is above the backbone's {longest} positions.",
            expected=f"It must be {longest} or less.",
            fix=f"Pass max_length={longest}, or cut the texts into parts.",
        )
    return max_length


def texts_of(table: Table, column: str, *, some_empty: bool = False) -> list[str]:
    """The texts of a column, each checked.

    Args:
        some_empty: whether some of them, but not all, may be empty.

    Raises:
        DataError: missing, no string, or empty, with the row's place.
    """
    texts = [_checked(place, value, column, some_empty) for place, value in cells(table, column)]
    if texts and not any(text.strip() for text in texts):
        raise DataError(
            f"{table.source}: every text in column {column!r} is empty.",
            expected="Rows of texts were expected.",
            fix="Name the column that holds the texts.",
        )
    return texts


def need_pieces(rows: Sequence[Example], table: Table) -> None:
    """Refuses a row of which a tokenizer without special pieces makes nothing at all.

    Raises:
        DataError: with the row's place.
    """
    for index, row in enumerate(rows):
        if not len(row["input_ids"]):
            raise DataError(
                f"{table.place(index)}: the text is empty for the tokenizer, and it adds no special pieces.",
                expected="Each row needs a piece at least.",
                fix="Fill it in or drop the row.",
            )


def _checked(place: str, value: object, column: str, may_be_empty: bool) -> str:
    if is_missing(value):
        raise DataError(f"{place}: the text in column {column!r} is missing.", fix="Fill it in or drop the row.")
    if not isinstance(value, str):
        raise DataError(
            f"{place}: the text in column {column!r} is {value!r}, a {type(value).__name__}.",
            expected="A string was expected.",
            fix="Write a row for each text, or name the column that holds the text."
            if isinstance(value, (list, tuple))
            else "Convert it with str(...), or name the column that holds the text.",
        )
    if not may_be_empty and not value.strip():
        raise DataError(f"{place}: the text in column {column!r} is empty.", fix="Fill it in or drop the row.")
    need_characters(value, place, f"the text in column {column!r}")
    return str(value)


def rows_of(texts: Any, columns: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """The rows of `predict(texts)`: one value a row, a tuple of as many as there are columns, or a dict.

    Raises:
        DataError: a single string, or a row of another size.

    Examples:
        >>> rows_of(["a", {"text": "b"}], ("text",))
        [{'text': 'a'}, {'text': 'b'}]
    """
    if isinstance(texts, (str, bytes, Mapping)):
        raise DataError(
            f"A single {type(texts).__name__} was given.", expected="A list of rows was expected.", fix="Pass [text]."
        )
    return [item if isinstance(item, Mapping) else _row(item, index, columns) for index, item in enumerate(texts)]


def _row(item: Any, index: int, columns: tuple[str, ...]) -> Mapping[str, Any]:
    if len(columns) == 1:
        return {columns[0]: item}
    if isinstance(item, (tuple, list)) and len(item) == len(columns):
        return dict(zip(columns, item, strict=True))
    raise DataError(
        f"row {index}: {item!r} is no pair of texts.",
        expected=f"This adapter reads two texts a row: {' and '.join(map(repr, columns))}.",
        fix="Pass (text, second text) for each row.",
    )


class Pieces(NamedTuple):
    """Tokenized rows, and how many were cut."""

    rows: list[Example]
    cut: int
    longest: int


def tokenize(texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any, limit: int) -> Pieces:
    """Rows to pieces with everything that the tokenizer gives, `token_type_ids` included; long rows are cut.

    Each row is tokenized whole first, so that the number cut and the longest are facts; only long rows are redone.
    """
    rows: list[Example] = []
    cut = longest = 0
    for first, row in enumerate(_whole(texts, pairs, tokenizer)):
        length = len(row["input_ids"])
        longest = max(longest, length)
        if length > limit:
            cut += 1
            both = (texts[first],) if pairs is None else (texts[first], pairs[first])
            row = dict(tokenizer(*both, truncation=True, max_length=limit, padding=False))
        rows.append(row)
    return Pieces(rows, cut, longest)


def _whole(texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any) -> Iterator[Example]:
    """Each row uncut; `verbose=False` as a long row is nothing to warn about here."""
    for start in range(0, len(texts), CHUNK):
        both = [list(column[start : start + CHUNK]) for column in (texts, pairs) if column is not None]
        batch = tokenizer(*both, truncation=False, padding=False, verbose=False)
        for index in range(len(both[0])):
            yield {key: values[index] for key, values in batch.items()}
