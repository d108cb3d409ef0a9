"""A checkpoint of some processes goes on with another number of them, and stays the same run.

    rows of a step, their order, the learning rate, what is evaluated when: as planned for the processes it began with
    forwards of a step: as many as the present processes need, with `batch_size` rows each at most

The loss of a step is a mean over its rows whoever computes them (`petune.training.loop`), so cutting a step otherwise
changes no more than the last bits of its sums. What does change is dropout: each process draws its own.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from petune.data.batching import slices

if TYPE_CHECKING:
    from petune.training.run import Run

Micro = list[list[list[int]]]
"""`micro[forward][rank]`: row indices."""


def regrouped(
    micro: Sequence[Sequence[Sequence[int]]],
    lengths: Sequence[int],
    *,
    processes: int,
    batch_size: int,
    max_tokens: int | None = None,
) -> Micro:
    """The rows of a step for another number of processes: the same ones in the same order, cut into other forwards.

    What was one forward stays together, for its rows were chosen for their length, and becomes as few forwards as
    give no process more than `batch_size` rows and `max_tokens` positions. Where a forward has fewer rows than there
    are processes, the last ones have none.

    Args:
        micro: `micro[forward][rank]`, as planned for the processes that the run began with.
        lengths: pieces of each row.
        processes: those there are now.
        batch_size, max_tokens: of a process and forward; a single row may be longer.

    Examples:
        >>> regrouped([[[5, 3], [1, 0]]], [1] * 6, processes=1, batch_size=2)
        [[[5, 3]], [[1, 0]]]
        >>> regrouped([[[5, 3], [1, 0]]], [1] * 6, processes=3, batch_size=2)
        [[[5, 3], [1], [0]]]
    """
    made: Micro = []
    for ranks in micro:
        whole = [row for part in ranks for row in part]
        most = -(-len(whole) // processes)  # then a process has one row
        forwards = -(-len(whole) // (batch_size * processes))
        cut = slices(whole, forwards * processes)
        while forwards < most and _is_too_much(cut, lengths, batch_size, max_tokens):
            forwards += 1
            cut = slices(whole, forwards * processes)
        made += [cut[start : start + processes] for start in range(0, len(cut), processes)]
    return made


def _is_too_much(parts: list[list[int]], lengths: Sequence[int], rows: int, tokens: int | None) -> bool:
    def too_much(part: Any) -> bool:
        padded = max((lengths[row] for row in part), default=0) * len(part)
        return len(part) > rows or (tokens is not None and padded > tokens)

    return any(too_much(part) for part in parts)


def go_on_in_other_processes(run: Run, planned_for: int, kept: int) -> list[str]:
    """Makes a run that was reinstated that of the processes there are now; what its report says of it.

    Args:
        planned_for: processes for which its steps were planned.
        kept: processes whose random states the checkpoint holds; this one's is reinstated already if it is among them.
    """
    now, rank = run.accelerator.num_processes, run.accelerator.process_index
    told = []
    if planned_for != now:
        run.course = replace(run.course, planned_for=planned_for)
        told.append(
            f"The steps were planned for {_many(planned_for)} and are done by {_many(now)}: the same rows in each, cut "
            f"into forwards of at most {run.config.rows} rows a process."
        )
    if rank >= kept:
        seed_newcomer(run.config.seed, rank, run.step)
    if now > kept:
        told.append(
            f"The checkpoint has the random states of {_many(kept)}; those of process {kept} and later are seeded by "
            "seed, process and step, so dropout is not that of a run that was never stopped."
        )
    elif now < kept:
        told.append(
            f"The checkpoint has the random states of {_many(kept)}, of which {now} went on, so dropout is not that of "
            "a run that was never stopped."
        )
    return told


def _many(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def seed_newcomer(seed: int, rank: int, step: int) -> None:
    """Seeds every generator of a process that was not there before; the same for the same three numbers."""
    number = int.from_bytes(hashlib.sha256(f"process {rank} from step {step} of seed {seed}".encode()).digest()[:4])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
