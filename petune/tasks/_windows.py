"""Questions with their contexts as pieces: long contexts as several windows that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from petune.tasks._texts import CHUNK
from petune.tasks.base import Example

Offsets = list[list[int]]
"""Lists of two, as everything in an example: other processes get them as JSON."""


class Window(NamedTuple):
    """A question and a part of its context."""

    pieces: Example
    """What the tokenizer gave: lists of int."""
    first: int
    """The position of the context's first piece."""
    offsets: Offsets
    """The characters (start, end) of each of the context's pieces."""


def windows(
    questions: Sequence[str], contexts: Sequence[str], tokenizer: Any, limit: int, stride: int
) -> Iterator[list[Window]]:
    """Of each row its windows of at most `limit` pieces; each shares about `stride` pieces with the one before it.

    A row that fits is one window. A question that alone takes more than half of the room keeps its first half of it.
    """
    for start in range(0, len(questions), CHUNK):
        some = list(zip(questions[start : start + CHUNK], contexts[start : start + CHUNK], strict=True))
        whole = _tokenized([pair[0] for pair in some], [pair[1] for pair in some], tokenizer)
        for index, pair in enumerate(some):
            window = _window(whole, index)
            yield [window] if len(window.pieces["input_ids"]) <= limit else _several(*pair, tokenizer, limit, stride)


def question_room(tokenizer: Any, limit: int) -> int:
    """How many pieces a question may take where its context does not fit beside it."""
    return max((limit - int(tokenizer.num_special_tokens_to_add(pair=True))) // 2, 1)


def _several(question: str, context: str, tokenizer: Any, limit: int, stride: int) -> list[Window]:
    asked = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pieces, room = len(asked["input_ids"]), question_room(tokenizer, limit)
    if pieces > room:
        question, pieces = question[: asked["offset_mapping"][room - 1][1]], room
    left = limit - int(tokenizer.num_special_tokens_to_add(pair=True)) - pieces
    cutting = {"truncation": "only_second", "max_length": limit, "return_overflowing_tokens": True}
    made = _tokenized([question], [context], tokenizer, stride=min(stride, left // 2), **cutting)
    return [_window(made, index) for index in range(len(made["input_ids"]))]


def _tokenized(questions: list[str], contexts: list[str], tokenizer: Any, **how: Any) -> Any:
    how = {"truncation": False, **how}
    return tokenizer(questions, contexts, padding=False, return_offsets_mapping=True, verbose=False, **how)


def _window(made: Any, index: int) -> Window:
    parts = made.sequence_ids(index)
    inside = [place for place, part in enumerate(parts) if part == 1]
    kept = {
        key: values[index]
        for key, values in made.items()
        if key not in ("offset_mapping", "overflow_to_sample_mapping", "special_tokens_mask")
    }
    offsets = made["offset_mapping"][index]
    return Window(kept, inside[0] if inside else len(parts), [list(offsets[place]) for place in inside])


def places_of(window: Window, start: int, end: int) -> tuple[int, int] | None:
    """The positions of the first and last piece of the characters [start, end); None: the window lacks some of them."""
    inside = [place for place, (first, last) in enumerate(window.offsets) if first < end and last > start]
    if not inside or window.offsets[inside[0]][0] > start or window.offsets[inside[-1]][1] < end:
        return None
    return window.first + inside[0], window.first + inside[-1]
