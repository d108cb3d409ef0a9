"""The weights that a run falls back to when a figure is not finite: the best, or the last that were seen to work."""

from __future__ import annotations

from typing import Any

from petune.training.ledger import require_finite

KEPT_EVERY = 20
"""Without evaluations: steps after which the weights are kept, besides epochs and checkpoints."""


class Fallback:
    """Keeps one state of a learner, and a younger one whose loss nobody has seen yet.

    Args:
        learner: has `state`, `restore` and `parameters`.
    """

    def __init__(self, learner: Any) -> None:
        self.learner = learner
        self.state, self.step = learner.state(), 0
        self._unproven: tuple[Any, int] | None = None

    def keep(self, step: int) -> None:
        """Makes the present weights, those after `step` steps, the ones to fall back to."""
        self.state, self.step, self._unproven = self.learner.state(), step, None

    def offer(self, step: int, rate: float) -> None:
        """The present weights are to be kept as soon as a loss of theirs was finite; see `prove`.

        Raises:
            DivergedError: when they are not finite.
        """
        require_finite(self.learner.parameters(), step, rate)
        self._unproven = (self.learner.state(), step)

    def prove(self) -> None:
        """A finite loss was seen: what was offered is kept."""
        if self._unproven is not None:
            (self.state, self.step), self._unproven = self._unproven, None

    def restore(self) -> None:
        """Puts the kept weights into the learner."""
        self.learner.restore(self.state)
