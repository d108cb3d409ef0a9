"""`batch_size="auto"`: how many rows fit into one forward is found out once, before the first step.

    rows per step = 16 * gradient_accumulation_steps = rows per forward * forwards per step

What a step computes stays what it would be with one large batch; only the number of forwards that it takes depends on
the memory. A checkpoint names both numbers, so a resumed run takes over what was found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from petune.errors import ConfigError, TrainingError
from petune.training.batches import length_of, moved
from petune.training.free_memory import free_bytes
from petune.training.live_bytes import LiveBytes
from petune.training.memory import bytes_of
from petune.training.resume import find, random_state, set_random_state
from petune.training.trainee import Trainee

MARGIN = 1.25
"""On a CPU: what a step takes beside the tensors that are counted, such as the room inside of operators."""


def sized(trainees: Sequence[Trainee], accelerator: Accelerator, resume: str | Path | None) -> list[Trainee]:
    """The trainees, with a number in place of `"auto"`; their learners must be in the state in which they learn.

    The weights and all random numbers are as before.

    Raises:
        ConfigError: several learners, one of which asks for it.
        TrainingError: on a GPU not even a single row fits.
        CheckpointError: as `resume.find`.
    """
    if not any(trainee.config.batch_size == "auto" for trainee in trainees):
        return list(trainees)
    if len(trainees) > 1:
        raise ConfigError(
            "batch_size='auto' was asked for in a joint fit.",
            expected="A forward there holds the batches of all adapters, so no single one has a size of its own.",
            fix="Give each a number of rows.",
        )
    return [_sized(trainees[0], accelerator, resume)]


def _sized(trainee: Trainee, accelerator: Accelerator, resume: str | Path | None) -> Trainee:
    wanted = trainee.config.rows * trainee.config.gradient_accumulation_steps
    rows = _kept(trainee, resume)
    if rows is None:
        with _nothing_left_behind(trainee.learner, accelerator.device):
            found = _found(trainee, wanted, accelerator)
        rows = min(gather_object([found]))  # processes must cut alike
    trainee.task.need_rows(rows)
    steps = max(1, wanted // rows)
    said = f"batch_size='auto' found {rows} x {steps}: rows per forward times forwards per step."
    config = replace(trainee.config, batch_size=rows, gradient_accumulation_steps=steps)
    return replace(trainee, config=config, notices=[*trainee.notices, said])


def divisors(wanted: int) -> list[int]:
    """The rows per forward that are tried: all first, then each time at most half as many, that divide it.

    Examples:
        >>> divisors(48)
        [48, 24, 12, 6, 3, 1]
    """
    found = [wanted]
    while found[-1] > 1:
        found.append(next(rows for rows in range(found[-1] // 2, 0, -1) if wanted % rows == 0))
    return found


def _kept(trainee: Trainee, resume: str | Path | None) -> int | None:
    """The rows per forward of the checkpoint that will be resumed."""
    config = trainee.config
    checkpoint = find(resume, config.output_dir, saves=config.save_every is not None)
    return None if checkpoint is None else int(checkpoint.state["identity"]["config"]["batch_size"])


def _found(trainee: Trainee, wanted: int, accelerator: Accelerator) -> int:
    """The most rows that fit here."""
    device = accelerator.device
    steps = _Steps(trainee, device)
    if device.type == "cpu":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        return by_measuring(divisors(wanted), steps.peak_bytes, free_bytes() // here - steps.learning_bytes)
    return by_trying(divisors(wanted), steps.attempt)


def by_measuring(sizes: Sequence[int], peak_bytes: Callable[[int], int], free: int) -> int:
    """The first size of which a step fits, by a line through the peaks of one row and of two; at worst the last size.

    Examples:
        >>> by_measuring([16, 8, 4, 2, 1], lambda rows: 100 + 10 * rows, 240)
        8
    """
    one, two = peak_bytes(1), peak_bytes(2)
    each = max(two - one, 0)
    fits = (size for size in sizes if (one + each * (size - 1)) * MARGIN <= free)
    return next(fits, sizes[-1])


def by_trying(sizes: Sequence[int], attempt: Callable[[int], None]) -> int:
    """The first size whose attempt does not run out of the device's memory.

    Raises:
        TrainingError: not even the last one does not.
    """
    for size in sizes:
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            continue  # only behind this are its tensors let go
        return size
    raise TrainingError(
        "Not even one of the longest rows fits into the device's memory.",
        expected="A forward and a backward pass of one row.",
        fix="Set gradient_checkpointing=True, or give the task a smaller max_length.",
    )


class _Steps:
    """Forward and backward passes over the longest rows, without an update."""

    def __init__(self, trainee: Trainee, device: torch.device) -> None:
        self._trainee, self._device = trainee, device
        self._longest = sorted(trainee.examples, key=length_of, reverse=True)

    @property
    def learning_bytes(self) -> int:
        """What comes once a step is taken: the optimizer's state, and the copy of the last good weights."""
        config = self._trainee.config
        trained = bytes_of(p for p in self._trainee.learner.parameters() if p.requires_grad)
        return trained * (1 + (2 if config.optimizer == "adamw" else int(config.momentum > 0)))

    def peak_bytes(self, rows: int) -> int:
        """What a step of so many rows holds at its worst."""
        with LiveBytes() as live:
            self._run(rows)
        return live.peak

    def attempt(self, rows: int) -> None:
        """A step of so many rows, with room kept for what learning takes."""
        torch.accelerator.empty_cache()
        room = torch.empty(self.learning_bytes, dtype=torch.uint8, device=self._device)
        self._run(rows)
        del room

    def _run(self, rows: int) -> None:
        learner, task = self._trainee.learner, self._trainee.task
        chosen = [self._longest[row % len(self._longest)] for row in range(rows)]
        batch = task.collate(chosen, self._trainee.tokenizer)
        inputs, labels, more = moved(batch, task, self._device, focuses=learner.focuses)
        try:
            task.loss(learner(**inputs, **more).float(), labels).backward()
        finally:
            learner.zero_grad(set_to_none=True)


@contextmanager
def _nothing_left_behind(learner: Any, device: torch.device) -> Iterator[None]:
    """Random numbers, gradients and buffers are as before; weights are not touched in between."""
    generators = random_state(device)
    buffers = {name: buffer.clone() for name, buffer in learner.named_buffers()}
    try:
        yield
    finally:
        learner.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in learner.named_buffers():
                buffer.copy_(buffers[name])
        set_random_state(*generators)
        if device.type != "cpu":
            torch.accelerator.empty_cache()
