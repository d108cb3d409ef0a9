"""Texts end to end, cut into blocks: no position pads, and no piece is cut off.

    texts     a a a . b b . c c c c c .
    blocks    a a a . b b      b . c c c c      c c .

A block begins with the last piece of the one before, on which no loss falls there: so every piece but the very first of
all is foretold exactly once. Positions start anew where a text begins, which is how attention knows the borders.

Kundu et al. 2024, "Enhancing Training Efficiency Using Packing with Flash Attention", arXiv:2407.09105.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from petune.tasks.base import IGNORE, Example, Table

STARTS = "text_positions"
"""The input that tells each piece's place in its text; -1 for padding. A shell turns it into what its family reads."""


def blocks(texts: Sequence[Sequence[int]], size: int, *, apart: bool) -> list[Example]:
    """The blocks of all texts, `size` pieces each; the last one may be shorter. Their rows are those they begin in.

    Args:
        texts: pieces, each with its end.
        apart: whether no text is to see another: then nothing foretells the first piece of a text, as when it is alone.

    Examples:
        >>> [block["input_ids"] for block in blocks([[1, 2, 3], [4, 5]], 4, apart=True)]
        [[1, 2, 3, 4], [4, 5]]
        >>> [block["labels"] for block in blocks([[1, 2, 3], [4, 5]], 4, apart=True)]
        [[-100, 2, 3, -100], [-100, 5]]
    """
    stream = list(itertools.chain.from_iterable(texts))
    places = list(itertools.chain.from_iterable(range(len(text)) for text in texts))
    labels = [IGNORE if apart and place == 0 else piece for piece, place in zip(stream, places, strict=True)]
    owners = [row for row, text in enumerate(texts) for _ in text]
    made: list[Example] = []
    for start in range(0, max(len(stream) - 1, 1), size - 1):
        span = slice(start, start + size)
        # The first piece of a block is there to be read.
        block: Example = {"input_ids": stream[span], "labels": [IGNORE, *labels[span][1:]], "row": owners[start]}
        if apart:
            block[STARTS] = _from_zero(places[span])
        else:
            block["attention_mask"] = [1] * len(stream[span])
        made.append(block)
    return made


def packed_notice(table: Table, texts: Sequence[Sequence[int]], size: int) -> str:
    """What is said of it."""
    pieces = sum(map(len, texts))
    count = -(-max(pieces - 1, 1) // (size - 1))
    return f"{table.source}: {len(texts):,} texts of {pieces:,} pieces were packed into {count:,} blocks of {size}."


def _from_zero(places: list[int]) -> list[int]:
    """Positions that start at 0 also for a text that began in the block before.

    Examples:
        >>> _from_zero([5, 6, 0, 1])
        [0, 1, 0, 1]
    """
    first = next((index for index, place in enumerate(places) if place == 0), len(places))
    return [*range(first), *places[first:]]
