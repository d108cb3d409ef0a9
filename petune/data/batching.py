"""Which rows meet in which forward: pure arithmetic on lengths and seeds, no tensors."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from petune.data.budget import WINDOW, batches_to_budget, fill
from petune.errors import DataError
from petune.knobs import check


class Step(NamedTuple):
    """The rows of one optimizer step: `micro[m][rank]` are the row indices of forward `m` on process `rank`."""

    micro: list[list[list[int]]]


def plan_epoch(
    lengths: Sequence[int],
    *,
    batch_size: int,
    accumulation: int,
    seed: int,
    epoch: int,
    group_by_length: bool,
    world: int = 1,
    max_tokens: int | None = None,
) -> list[Step]:
    """The steps of one epoch, the same for the same seed and epoch, whatever the state of any global generator.

    Every row occurs exactly once. A micro-batch has `batch_size * world` rows, cut into contiguous slices of near-equal
    size, one per process; a step has `accumulation` micro-batches. What is left over is the last micro-batch of the
    last step. All processes run the same number of forwards; of a left-over with fewer rows than processes the last
    ones have none (`petune.training.batches.micro_batches` lets them take part without counting).

    `accumulation` and `world` only cut differently: the rows of a step depend on the product of `batch_size`, `world`
    and, without grouping, `accumulation` alone.

    With grouping, shuffled rows are sorted by length within windows of 50 micro-batches (fewer for few rows, so that
    an epoch has at least four windows and batches differ between epochs), cut, and the full micro-batches shuffled.

    With a budget of tokens, a micro-batch is full when another row would exceed `batch_size` rows or `max_tokens`
    padded positions of a process. Then the number of steps may differ between epochs by a few.

    Args:
        lengths: (rows,) pieces per row.
        batch_size: rows per process and forward; with `max_tokens` the most there may be.
        accumulation: forwards per optimizer step.
        seed: of the run.
        epoch: from 0.
        group_by_length: whether rows of similar length meet, so that little is padded.
        world: processes.
        max_tokens: padded positions per process and forward; None: any number.

    Raises:
        ConfigError: a size below 1, or a row longer than `max_tokens`.
        DataError: no rows, or fewer rows than processes.

    Examples:
        >>> steps = plan_epoch([3] * 5, batch_size=2, accumulation=1, seed=0, epoch=0, group_by_length=False)
        >>> [[len(rows) for rows in step.micro[0]] for step in steps]
        [[2], [2], [1]]
    """
    for name, value in (("batch_size", batch_size), ("accumulation", accumulation), ("world", world)):
        check(value >= 1, name, value, "at least 1")
    if len(lengths) < world:
        raise DataError(
            f"There are {len(lengths)} rows for {world} processes.",
            expected="Every process needs at least one row.",
            fix="Use fewer processes, or more rows.",
        )
    # Seeded by text: the stream is the same in every Python version, and (1, 23) never meets (12, 3).
    rng = random.Random(f"epoch {epoch} of seed {seed}")
    if max_tokens is None:
        batches = _micro_batches(lengths, batch_size * world, rng, group_by_length)
    else:
        batches = batches_to_budget(lengths, batch_size, rng, group_by_length, world, max_tokens)
    sliced = [slices(batch, world) for batch in batches]
    return [Step(sliced[start : start + accumulation]) for start in range(0, len(sliced), accumulation)]


def ordered_batches(lengths: Sequence[int], batch_size: int, max_tokens: int | None = None) -> list[list[int]]:
    """Batches for evaluation: row indices, longest rows first; the caller puts the results back in order.

    The largest batch comes first, so a run that is too large for the memory fails at once and not at its end.

    Args:
        max_tokens: padded positions of a batch; None: any number. A longer row is a batch of its own.

    Examples:
        >>> ordered_batches([1, 9, 2, 8], 2)
        [[1, 3], [2, 0]]
        >>> ordered_batches([1, 9, 2, 8], 2, max_tokens=10)
        [[1], [3], [2, 0]]
    """
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return _cut(order, batch_size) if max_tokens is None else fill(order, lengths, batch_size, 1, max_tokens)


def padding_share(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """The share of positions that only pad, when each batch is padded to its longest row.

    Examples:
        >>> padding_share([1, 3], [[0, 1]])
        0.3333333333333333
    """
    real = padded = 0
    for batch in batches:
        sizes = [lengths[row] for row in batch]
        real += sum(sizes)
        padded += max(sizes, default=0) * len(sizes)
    return (padded - real) / padded if padded else 0.0


def _micro_batches(lengths: Sequence[int], size: int, rng: random.Random, grouped: bool) -> list[list[int]]:
    """All rows in batches of `size`; only the last may be smaller."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if not grouped:
        return _cut(order, size)
    window = size * max(1, min(WINDOW, len(order) // size // 4))
    # The sort is stable, so rows of equal length stay shuffled.
    by_length = [row for rows in _cut(order, window) for row in sorted(rows, key=lengths.__getitem__)]
    batches = _cut(by_length, size)
    rest = [batches.pop()] if len(batches[-1]) < size else []
    rng.shuffle(batches)
    return batches + rest


def _cut(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def slices(rows: Sequence[int], parts: int) -> list[list[int]]:
    """Contiguous slices whose sizes differ by at most one, the larger ones first."""
    small, extra = divmod(len(rows), parts)
    edges = [rank * small + min(rank, extra) for rank in range(parts + 1)]
    return [list(rows[start:end]) for start, end in itertools.pairwise(edges)]
