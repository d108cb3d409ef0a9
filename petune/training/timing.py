"""How long a run will take: three steps of it are timed before it begins, and the rest is arithmetic.

A step's seconds are drawn as broken lines over its size (rows times the longest row, padding included) between a
short, a middle and a long batch of the first epoch, and summed over all of its steps. Where the trunk's output is kept,
the first epoch is whole and the later ones are without the trunk:

    whole = trunk + live        E epochs = whole + (E - 1) · (whole - trunk)
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from petune.config import TrainConfig
from petune.model.learner import Learner
from petune.model.modes import evaluating
from petune.tasks.base import Example, Task
from petune.training import loop
from petune.training.accelerating import accelerating
from petune.training.batches import Course, PlannedStep, length_of, on_device
from petune.training.report import TrainReport

WARMING, TIMED = 1, 2
"""Steps with each batch: the first touches memory that later ones find; of the others the mean counts."""


class Timing(NamedTuple):
    """What the steps of a run were found to take.

    Args:
        first: seconds of the first epoch, which fills the cache where there is one.
        later: seconds of every further epoch.
        peak_megabytes: the most that these steps took, as a report measures it.
    """

    first: float
    later: float
    peak_megabytes: float = 0.0

    def mean(self, epochs: int) -> float:
        """Seconds per epoch over the whole run.

        Examples:
            >>> Timing(3.0, 1.0).mean(4)
            1.5
        """
        return (self.first + (epochs - 1) * self.later) / epochs


def time_run(
    learner: Learner, task: Task, tokenizer: Any, examples: Sequence[Example], config: TrainConfig, *, trunk_kept: bool
) -> Timing:
    """Takes steps with this learner, whose weights do change; random numbers are as before.

    Args:
        learner: one to throw away.
        task: learnt.
        examples: all training rows, encoded.
        trunk_kept: whether later epochs begin where the trunk ends.
    """
    steps = list(Course(task, examples, dataclasses.replace(config, epochs=1)).after(0))
    chosen = spread(steps, lambda step: size_of(step, examples))
    with random_kept():
        # The largest first: memory that a step before it has let go would hide what it takes.
        reports = {
            size_of(step, examples): _report(learner, task, tokenizer, examples, config, step)
            for step in reversed(chosen)
        }
        first = _summed({size: _seconds(report) for size, report in reports.items()}, steps, examples)
        peak = max(report.peak_memory_megabytes for report in reports.values())
        if not trunk_kept:
            return Timing(first, first, peak)
        trunk = {size_of(step, examples): _trunk(learner, task, tokenizer, examples, config, step) for step in chosen}
    return Timing(first, max(first - _summed(trunk, steps, examples), 0.0), peak)


def spread(steps: Sequence[PlannedStep], size: Callable[[PlannedStep], int]) -> list[PlannedStep]:
    """The smallest, the middle and the largest step, as far as they differ in size.

    Examples:
        >>> spread([3, 1, 2, 9, 1], size=int)
        [1, 2, 9]
    """
    ordered = sorted(steps, key=size)
    return list({size(step): step for step in (ordered[0], ordered[len(ordered) // 2], ordered[-1])}.values())


def size_of(step: PlannedStep, examples: Sequence[Example]) -> int:
    """Positions that a step's forwards compute, padding included."""
    forwards = [rows for ranks in step.micro for rows in ranks]
    return sum(len(rows) * max(length_of(examples[row]) for row in rows) for rows in forwards)


def _summed(seconds: dict[int, float], steps: Sequence[PlannedStep], examples: Sequence[Example]) -> float:
    """Over all steps of an epoch, each read off between the timed sizes."""
    sizes = sorted(seconds)
    return float(np.interp([size_of(step, examples) for step in steps], sizes, [seconds[s] for s in sizes]).sum())


def _rows(step: PlannedStep) -> list[int]:
    return [row for ranks in step.micro for rows in ranks for row in rows]


def _report(
    learner: Learner, task: Task, tokenizer: Any, examples: Sequence[Example], config: TrainConfig, step: PlannedStep
) -> TrainReport:
    """One step in THE loop, several times over: a run whose epochs are this one step."""
    quiet = dataclasses.replace(
        config, epochs=WARMING + TIMED, output_dir=None, save_every=None, metric=None, metrics=(), patience=None,
        class_weight=None, cache_trunk=False, progress="off",
    )  # fmt: skip
    return loop.train(learner, task, tokenizer, [examples[row] for row in _rows(step)], None, quiet)


def _seconds(report: TrainReport) -> float:
    """Of one step."""
    tokens = report.real_tokens / report.steps
    return statistics.mean(tokens / row["tokens_per_second"] for row in report.history[WARMING:])


def _trunk(
    learner: Learner, task: Task, tokenizer: Any, examples: Sequence[Example], config: TrainConfig, step: PlannedStep
) -> float:
    """Seconds of the trunk alone in one step, in the precision of the run."""
    assert learner.trunk is not None
    seconds = 0.0
    with (
        accelerating(config) as accelerator,
        accelerator.autocast(),
        evaluating(*learner.adapter.modules()),
        learner.trunk.listening(),
    ):
        for rows in (rows for ranks in step.micro for rows in ranks):
            batch = task.collate([examples[row] for row in rows], tokenizer)
            inputs = on_device(batch.inputs, learner.adapter.shell.backbone.device)
            for number in range(WARMING + TIMED):
                started = time.perf_counter()
                learner.trunk_states(inputs)
                _wait()
                seconds += (time.perf_counter() - started) / TIMED if number >= WARMING else 0.0
    return seconds


def _wait() -> None:
    """A GPU answers before it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def random_kept() -> Iterator[None]:
    """Python's, numpy's and torch's random numbers go on afterwards as if nothing had been drawn."""
    python, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
