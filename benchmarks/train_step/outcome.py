"""What one run of an arm came to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    """One run of an arm.

    Args:
        seconds: of the loop: optimizer, batches, steps; without reading, encoding and loading the model.
        tokens: real pieces that were trained on, over all epochs.
        losses: one per optimizer step, where they were kept.
        score: reads the accuracy on the test rows, when asked.
    """

    seconds: float
    tokens: int
    losses: list[float]
    score: Callable[[], float]

    @property
    def rate(self) -> float:
        """Real tokens per second."""
        return self.tokens / self.seconds
