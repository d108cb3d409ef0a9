"""Evaluation among several processes: batches are dealt out, and what they came to is gathered, each row once.

The batches are those of one process, cut the same way, so a row meets the same rows and the same padding whatever the
number of processes, and every figure is exactly that of one process with the same weights. Whoever has nothing to do in
a round does another's batch once more and throws the answer away: with sharded weights a forward is a matter of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object


class Ranks(NamedTuple):
    """Which of several processes this one is.

    Args:
        rank: from 0.
        processes: their number.
    """

    rank: int = 0
    processes: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator) -> Ranks:
        """Those of a run."""
        return cls(accelerator.process_index, accelerator.num_processes)

    def dealt(self, batches: int) -> list[tuple[int, bool]]:
        """(batch, whether its answer counts) for this process; equally many for all.

        Examples:
            >>> Ranks(0, 2).dealt(3), Ranks(1, 2).dealt(3)
            ([(0, True), (2, True)], [(1, True), (2, False)])
        """
        rounds = -(-batches // self.processes)
        mine = (turn * self.processes + self.rank for turn in range(rounds))
        return [(min(batch, batches - 1), batch < batches) for batch in mine]

    def gathered(self, found: dict[int, Any]) -> dict[int, Any]:
        """What all processes found, by batch; every process must call it.

        Args:
            found: batch -> what counts of it.
        """
        if self.processes == 1:
            return found
        answers: Sequence[dict[int, Any]] = gather_object([found])
        return {batch: each[batch] for each in answers for batch in each}


ALONE = Ranks()
