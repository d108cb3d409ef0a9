"""Words to pieces and back: which piece speaks for which word, and long rows in parts that lose no word."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from petune.errors import DataError
from petune.tasks._columns import cells, need_characters
from petune.tasks._labels import is_missing, label_name
from petune.tasks._texts import CHUNK
from petune.tasks.base import Example, Table


class Part(NamedTuple):
    """Some consecutive words of a row as one input.

    Args:
        start: the index of its first word in the row.
        size: how many words it holds, those without a piece included.
        pieces: what the tokenizer gave.
        owners: per piece the index of its word within the part; None for specials.
        cut: whether it is one word that is too long by itself, whose end is gone.
    """

    start: int
    size: int
    pieces: Example
    owners: list[int | None]
    cut: bool = False

    def first_pieces(self) -> dict[int, int]:
        """Position of a word's first piece -> the word's index within the part."""
        firsts: dict[int, int] = {}
        for position, word in enumerate(self.owners):
            if word is not None:
                firsts.setdefault(word, position)
        return {position: word for word, position in firsts.items()}


def words_of(table: Table, column: str) -> list[list[str]]:
    """The words of each row; a string is split at white space.

    Raises:
        DataError: missing, no words, or a word that is no string, with the row's place.
    """
    return [_words(place, value, column) for place, value in cells(table, column)]


def _words(place: str, value: Any, column: str) -> list[str]:
    if is_missing(value):
        raise DataError(f"{place}: the words in column {column!r} are missing.", fix="Fill them in or drop the row.")
    items = value.split() if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, np.ndarray)):
        raise DataError(
            f"{place}: the words in column {column!r} are {value!r}, a {type(value).__name__}.",
            expected="A list of words was expected, or a string that is split at white space.",
        )
    for position, word in enumerate(items):
        if not isinstance(word, str):
            raise DataError(
                f"{place}: word {position} in column {column!r} is {word!r}, a {type(word).__name__}.",
                expected="Words are strings.",
            )
        need_characters(word, place, f"word {position} in column {column!r}")
    if not any(word.strip() for word in items):
        raise DataError(f"{place}: there are no words in column {column!r}.", fix="Fill them in or drop the row.")
    return [str(word) for word in items]


def tags_of(place: str, value: Any, words: int) -> list[str]:
    """The tags of a row, one per word; a string is split at white space.

    Raises:
        DataError: missing, or not as many as words.

    Examples:
        >>> tags_of("row 0", "B-PER O", 2)
        ['B-PER', 'O']
    """
    if is_missing(value):
        raise DataError(f"{place}: the tags are missing.", fix="Fill them in or drop the row.")
    items = value.split() if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, np.ndarray)):
        raise DataError(
            f"{place}: the tags are {value!r}, a {type(value).__name__}.", expected="A list of tags was expected."
        )
    if len(items) != words:
        raise DataError(
            f"{place}: there are {words} words and {len(items)} tags.", expected="Each word needs exactly one tag."
        )
    return [label_name(item, f"{place}, word {position}") for position, item in enumerate(items)]


def spaced(rows: list[list[str]], tokenizer: Any) -> list[list[str]]:
    """The words with a space in front of each, if the tokenizer needs it to see them as in running text.

    Byte-level tokenizers (RoBERTa, GPT-2, ModernBERT, Qwen, Llama 3) write a word after a space with other pieces than
    a word that begins a text; given ready-made words they see each as a beginning. Their `add_prefix_space=True` is
    the usual remedy, but the generic fast tokenizer class drops it without a word; a space of our own works for all.
    """
    if not lacks_space(tokenizer):
        return rows
    return [[f" {word}" if word.strip() and not word[0].isspace() else word for word in words] for words in rows]


def lacks_space(tokenizer: Any) -> bool:
    """Whether ready-made words come out as in running text only with a space in front, by trying it."""

    def ids(text: Any) -> list[int]:
        made = tokenizer(text, is_split_into_words=isinstance(text, list), add_special_tokens=False, verbose=False)
        return list(made["input_ids"])

    running = ids("a a")
    return ids(["a", "a"]) != running and ids(["a", " a"]) == running


class Parts(NamedTuple):
    """Per row its parts, and what must be said about them."""

    rows: list[list[Part]]
    split: int
    cut_words: int
    longest: int


def parts(rows: Sequence[list[str]], tokenizer: Any, limit: int) -> Parts:
    """Each row as one part, or as several where it is longer than `limit` pieces; rows are split between words."""
    made: list[list[Part]] = []
    longest = 0
    for start in range(0, len(rows), CHUNK):
        chunk = list(rows[start : start + CHUNK])
        batch = _encode(chunk, tokenizer)
        for index, words in enumerate(chunk):
            pieces = {key: values[index] for key, values in batch.items()}
            longest = max(longest, len(pieces["input_ids"]))
            part = Part(0, len(words), pieces, batch.word_ids(index))
            made.append(_fitting(part, words, tokenizer, limit))
    split = sum(len(row) > 1 for row in made)
    cut_words = sum(part.cut for row in made for part in row)
    return Parts(made, split, cut_words, longest)


def _encode(rows: list[list[str]], tokenizer: Any, limit: int | None = None) -> Any:
    cutting = {"truncation": False} if limit is None else {"truncation": True, "max_length": limit}
    return tokenizer(rows, is_split_into_words=True, padding=False, verbose=False, **cutting)


def _fitting(part: Part, words: list[str], tokenizer: Any, limit: int) -> list[Part]:
    """The part itself if it fits, else about equal shares of its words, each made to fit in turn.

    A single word that is too long keeps its first pieces: they are all that speaks for it anyway.
    """
    length = len(part.pieces["input_ids"])
    if length <= limit:
        return [part]
    if len(words) == 1:
        batch = _encode([words], tokenizer, limit)
        pieces = {key: values[0] for key, values in batch.items()}
        return [Part(part.start, 1, pieces, batch.word_ids(0), cut=True)]
    room = max(limit - tokenizer.num_special_tokens_to_add(pair=False), 1)
    shares = min(max(math.ceil(length / room), 2), len(words))
    bounds = [len(words) * share // shares for share in range(shares + 1)]
    fitting: list[Part] = []
    for first, last in itertools.pairwise(bounds):
        batch = _encode([words[first:last]], tokenizer)
        pieces = {key: values[0] for key, values in batch.items()}
        share = Part(part.start + first, last - first, pieces, batch.word_ids(0))
        fitting += _fitting(share, words[first:last], tokenizer, limit)
    return fitting


def said_of(made: Parts, table: Table, limit: int) -> list[str]:
    """Sentences on rows that were split, words that were cut, and words that the tokenizer drops altogether."""
    notices = []
    if made.split:
        examples = sum(len(row) for row in made.rows if len(row) > 1)
        notices.append(
            f"{table.source}: {made.split} of {len(made.rows)} rows were longer than {limit} pieces and were split into"
            f" {examples} examples (longest {made.longest}); no word is lost."
        )
    if made.cut_words:
        notices.append(
            f"{table.source}: {made.cut_words} words alone were longer than {limit} pieces; their ends were cut."
        )
    dropped = [(index, word) for index, row in enumerate(made.rows) for word in _dropped(row)]
    if dropped:
        row, word = dropped[0]
        notices.append(
            f"{table.source}: {len(dropped)} words have no piece, so nothing is learnt of them (first: "
            f"{table.place(row)}, word {word})."
        )
    return notices


def _dropped(row: list[Part]) -> list[int]:
    """The words of a row for which no piece speaks."""
    return [
        part.start + word for part in row for word in sorted(set(range(part.size)) - set(part.first_pieces().values()))
    ]
