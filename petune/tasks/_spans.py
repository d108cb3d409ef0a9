"""From the logits of pieces to answers: which span of a context is the likeliest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from petune.tasks.base import Example


class Answer(str):
    """What answers a question: a string, `""` for no answer, that knows where it was found.

    `context[answer.start : answer.end] == answer` holds always.

    Attributes:
        start: its first character in the context; 0 for no answer.
        end: behind its last character; 0 for no answer.
        score: its probability among all spans of the context (and no answer, where that was learnt).

    Examples:
        >>> answer = Answer("Oslo", start=9, end=13, score=0.5)
        >>> answer, answer == "Oslo", answer.start
        ('Oslo', True, 9)
    """

    start: int
    end: int
    score: float

    def __new__(cls, text: str = "", *, start: int = 0, end: int = 0, score: float = 0.0) -> Answer:
        made = super().__new__(cls, text)
        made.start, made.end, made.score = start, end, score
        return made


def ranked(
    windows: Sequence[tuple[np.ndarray, Example]], n: int, *, longest: int, threshold: float | None
) -> list[Answer]:
    """The answer of a row, and the next best ones behind it.

    Args:
        windows: logits (T, 2) of each window of the row, and its example.
        n: how many spans.
        longest: pieces of an answer at most.
        threshold: by how much the logits of no answer must exceed those of the best span; None: there is an answer.
    """
    spans: dict[tuple[int, int], float] = {}
    nothing, total = np.inf, -np.inf
    context = windows[0][1]["_context"]
    for logits, example in windows:
        scores, none = span_scores(logits, example["_first"], len(example["_offsets"]), longest)
        nothing = min(nothing, none)  # one window that holds an answer is enough
        total = np.logaddexp(total, np.logaddexp.reduce(scores.ravel()))
        for score, start, end in _best(scores, example["_offsets"], n):
            place = _stripped(context, start, end)
            spans[place] = max(score, spans.get(place, -np.inf))
    total = total if threshold is None else np.logaddexp(total, nothing)
    best = sorted(spans.items(), key=lambda item: -item[1])[:n]
    found = [
        Answer(context[start:end], start=start, end=end, score=float(np.exp(score - total)))
        for (start, end), score in best
    ]
    if threshold is None:
        return found or [Answer()]
    silence = Answer(score=float(np.exp(nothing - total)))
    if not best or nothing - best[0][1] > threshold:
        return [silence, *found]
    return [found[0], silence, *found[1:]]


def span_scores(logits: np.ndarray, first: int, many: int, longest: int) -> tuple[np.ndarray, float]:
    """The score of every span of the context's pieces, (longest, many), and that of no answer.

    Entry [k, s] is start[s] + end[s + k], that of the k + 1 pieces from s on; minus infinity behind the context's end.

    Args:
        logits: (T, 2) of a window.
        first: the position of the context's first piece; position 0 stands for no answer.
        many: the context's pieces.
        longest: pieces of an answer at most.

    Examples:
        >>> span_scores(np.array([[0, 0], [1, 2], [3, 4]]), 1, 2, 2)[0].tolist()
        [[3.0, 7.0], [5.0, -inf]]
    """
    start, end = np.asarray(logits, dtype=np.float64)[first : first + many].T
    scores = np.full((min(longest, max(many, 1)), many), -np.inf)
    for more in range(len(scores)):
        scores[more, : many - more] = start[: many - more] + end[more:]
    return scores, float(logits[0, 0] + logits[0, 1])


def by_row(items: Sequence[Any], examples: Sequence[Example]) -> list[list[tuple[Any, Example]]]:
    """The windows of each row with their items; rows in the order in which they first come."""
    rows: dict[int, list[tuple[Any, Example]]] = {}
    for item, example in zip(items, examples, strict=True):
        rows.setdefault(example["row"], []).append((item, example))
    return list(rows.values())


def _best(scores: np.ndarray, offsets: Sequence[Sequence[int]], n: int) -> Iterator[tuple[float, int, int]]:
    """Score, start and end, in characters, of the n best spans of a window."""
    flat = scores.ravel()
    for place in np.argpartition(-flat, min(n, flat.size) - 1)[:n] if flat.size else ():
        more, start = np.unravel_index(int(place), scores.shape)
        if np.isfinite(flat[place]):
            yield float(flat[place]), offsets[int(start)][0], offsets[int(start + more)][1]


def _stripped(context: str, start: int, end: int) -> tuple[int, int]:
    """A span without white space at its ends, which some tokenizers count to their pieces."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))
