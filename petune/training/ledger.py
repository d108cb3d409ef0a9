"""The book of a run: what each step gave, how long it took, and the check that it was finite."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

STEPS_PER_SYNC = 20
"""On a GPU, how many steps may pass before their losses are fetched and checked."""

SMALLEST_SCALE = 2.0**-10
"""fp16 halves the loss scale at each overflow, from 65536; below this no gradient would ever fit."""


class DivergedError(Exception):
    """A figure of the run is no longer finite; `train` answers with the last good adapter and a `TrainingError`.

    Args:
        in_step: whether the rows of that step gave the figure, so that they are worth a look.
    """

    def __init__(self, what: str, step: int, rate: float, *, in_step: bool = False) -> None:
        self.what, self.step, self.rate, self.in_step = what, step, rate, in_step
        super().__init__(what)


@dataclass
class Entry:
    """One optimizer step; `values` (2,) holds loss and gradient norm until the host has seen them."""

    step: int
    epoch: float
    rate: float
    tokens: int
    values: Tensor
    loss: float | None = None


class Ledger:
    """Collects steps and turns them into rows of the history.

    On a CPU each step is checked before its weights change. A GPU is not made to wait: losses and norms stay there and
    are fetched together, every `STEPS_PER_SYNC` steps and before any evaluation, checkpoint or end.

    Args:
        device: where the run computes.
        scaled: whether losses are scaled (fp16): gradients may then overflow, and such a step is left out.
    """

    def __init__(self, device: torch.device, *, scaled: bool = False) -> None:
        self._at_once, self._scaled = device.type == "cpu", scaled
        self._entries: list[Entry] = []
        self._since = time.perf_counter()

    def enter(self, step: int, epoch: float, rate: float, tokens: int, loss: Tensor, norm: Tensor) -> None:
        """Notes a step whose gradients are there and whose update is not.

        Raises:
            DivergedError: when the loss or the norm is not finite (seen later on a GPU).
        """
        norm = torch.zeros_like(loss) if self._scaled else norm
        values = torch.stack([loss.detach().float(), norm.detach().float()])
        self._entries.append(Entry(step, epoch, rate, tokens, values))
        if self._at_once:
            self._check()

    def skipped(self, scale: float, step: int, rate: float) -> None:
        """Notes that fp16 left a step out.

        Raises:
            DivergedError: when no smaller scale can help any more.
        """
        if scale < SMALLEST_SCALE:
            raise DivergedError(f"The gradients overflow fp16 even at a loss scale of {scale}", step, rate)

    @property
    def due(self) -> bool:
        """Whether it is time to settle."""
        return self._at_once or len(self._entries) >= STEPS_PER_SYNC

    def settle(self, seconds: float) -> list[dict[str, Any]]:
        """The rows of the steps since the last call; `seconds` of the run so far goes into them.

        Raises:
            DivergedError: as for `enter`.
        """
        self._check()
        now = time.perf_counter()
        speed = sum(entry.tokens for entry in self._entries) / max(now - self._since, 1e-9)
        rows = [
            {
                "step": entry.step,
                "epoch": round(entry.epoch, 6),
                "loss": entry.loss,
                "learning_rate": entry.rate,
                "tokens_per_second": round(speed, 1),
                "seconds": round(seconds, 3),
            }
            for entry in self._entries
        ]
        self._entries, self._since = [], now
        return rows

    def restart_clock(self) -> None:
        """Call after an evaluation or a checkpoint, so that it does not count against the speed."""
        self._since = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Time in which this run waited for another does not count against its speed."""
        self._since += seconds

    def _check(self) -> None:
        unseen = [entry for entry in self._entries if entry.loss is None]
        if not unseen:
            return
        for entry, (loss, norm) in zip(unseen, torch.stack([e.values for e in unseen]).tolist(), strict=True):
            for what, value in (("The loss", loss), ("The gradient norm", norm)):
                if not math.isfinite(value):
                    raise DivergedError(f"{what} became {value}", entry.step, entry.rate, in_step=True)
            entry.loss = loss


class Stopwatch:
    """Seconds of a run, with and without the breaks for evaluations and checkpoints; goes on after a resume."""

    def __init__(self, before: float = 0.0) -> None:
        """`before`: seconds that were spent on this run already."""
        self._began, self._earlier, self._breaks = time.perf_counter(), before, 0.0

    @property
    def seconds(self) -> float:
        """The whole run."""
        return time.perf_counter() - self._began + self._earlier

    @property
    def training_seconds(self) -> float:
        """Without the breaks."""
        return self.seconds - self._breaks

    @contextmanager
    def a_break(self) -> Iterator[None]:
        """Time that is not training proper."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._breaks += time.perf_counter() - began

    def to_json(self) -> list[float]:
        """What a checkpoint keeps."""
        return [self.seconds, self._breaks]

    def go_on_from(self, kept: list[float]) -> None:
        """Continues an earlier watch."""
        self._began, (self._earlier, self._breaks) = time.perf_counter(), kept


def require_finite(tensors: Any, step: int, rate: float) -> None:
    """Looks at all weights at once.

    Raises:
        DivergedError: when any of them is not finite.
    """
    flags = [tensor.detach().isfinite().all() for tensor in tensors]
    if flags and not bool(torch.stack(flags).all()):
        raise DivergedError("The weights became non-finite", step, rate)
