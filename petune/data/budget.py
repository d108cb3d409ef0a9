"""Micro-batches of a budget of padded positions: many short rows, or few long ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

from petune.errors import ConfigError
from petune.knobs import check

WINDOW = 50
"""Micro-batches whose rows are sorted together when batches are grouped by length."""


def batches_to_budget(
    lengths: Sequence[int], most: int, rng: random.Random, grouped: bool, world: int, max_tokens: int
) -> list[list[int]]:
    """All rows, shuffled, in micro-batches whose slices, one per process, keep within the budget.

    With grouping, shuffled rows are sorted within windows of about 50 micro-batches, up in one window and down in the
    next, so that a batch across two windows pads no more than others; then the micro-batches are shuffled. Few rows
    have two windows.

    Args:
        most: rows per process.
        max_tokens: padded positions per process.

    Raises:
        ConfigError: a row longer than `max_tokens`.
    """
    check(max_tokens >= 1, "max_tokens", max_tokens, "None or at least 1")
    if max(lengths) > max_tokens:
        raise ConfigError(
            f"max_tokens={max_tokens}, but there is a row of {max(lengths)} pieces.",
            expected="A row cannot be cut into two forwards.",
            fix="Raise max_tokens, or give the task a smaller max_length.",
        )
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if not grouped:
        return fill(order, lengths, most, world, max_tokens)
    usual = min(most, max(1, max_tokens * len(lengths) // sum(lengths))) * world
    window = usual * max(1, min(WINDOW, len(order) // usual // 2))
    by_length: list[int] = []
    for number, start in enumerate(range(0, len(order), window)):
        # The sort is stable, so rows of equal length stay shuffled.
        by_length += sorted(order[start : start + window], key=lengths.__getitem__, reverse=number % 2 == 1)
    batches = fill(by_length, lengths, most, world, max_tokens)
    rng.shuffle(batches)
    return batches


def fill(order: Sequence[int], lengths: Sequence[int], most: int, world: int, max_tokens: int) -> list[list[int]]:
    """Rows in their order, a new batch whenever the next row would be too much for a process.

    Examples:
        >>> fill([0, 1, 2, 3], [2, 3, 4, 5], most=3, world=1, max_tokens=8)
        [[0, 1], [2], [3]]
    """
    batches: list[list[int]] = []
    longest = 0
    for row in order:
        longest = max(longest, lengths[row])
        rows = len(batches[-1]) + 1 if batches else 1
        share = -(-rows // world)
        if not batches or share > most or share * longest > max_tokens:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches
