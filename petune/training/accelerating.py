"""Accelerate, entered and left cleanly: which device, which processes, which precision."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn
from torch.optim import Optimizer

from petune.config import TrainConfig
from petune.errors import ConfigError, ProcessError
from petune.training.ranks.asking import unheard
from petune.training.ranks.fallback import refuse_deepspeed, refuse_fewer_processes
from petune.training.ranks.lost import first_line, is_of_the_line


@contextmanager
def accelerating(config: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator of our own for the length of one run.

    Accelerate keeps its state in process-wide dictionaries and refuses a second precision; they are put aside here and
    back at the end, so that two fits may differ, and an Accelerator of yours is what it was. Without an accelerator
    device `cpu=True` is said outright: otherwise several CPU processes would train apart without a word.

    Raises:
        ConfigError: for fp16 on a CPU, or a launch that would quietly be another one.
        ProcessError: the other processes of the launch did not come.
    """
    refuse_deepspeed()
    cpu = not torch.accelerator.is_available()
    if cpu and config.mixed_precision == "fp16":
        raise ConfigError(
            "mixed_precision='fp16' was asked for on a CPU.",
            expected="fp16 needs an accelerator.",
            fix="Use mixed_precision='bf16' or 'no'.",
        )
    kept = [(shared, dict(shared)) for shared in (AcceleratorState._shared_state, GradientState._shared_state)]
    for shared, _ in kept:
        shared.clear()
    try:
        # Every rank computes the same buffers from the same averaged gradients: nothing to broadcast.
        quiet = DistributedDataParallelKwargs(broadcast_buffers=False)
        patience = InitProcessGroupKwargs(timeout=timedelta(seconds=config.process_timeout))
        with _meeting(config), unheard():  # what a launcher says of FSDP is answered by petune.training.ranks.sharding
            accelerator = Accelerator(
                cpu=cpu, mixed_precision=config.mixed_precision, kwargs_handlers=[quiet, patience]
            )
        refuse_fewer_processes(accelerator)
        accelerator.gradient_accumulation_steps = 1  # an environment variable may set it; the loop divides by itself
        yield accelerator
    finally:
        for shared, before in kept:
            shared.clear()
            shared.update(before)


@contextmanager
def _meeting(config: TrainConfig) -> Iterator[None]:
    """Where the processes of a launch find each other, or not."""
    try:
        yield
    except RuntimeError as error:
        if not is_of_the_line(error):
            raise
        raise ProcessError(
            f"The processes of this launch did not find each other ({first_line(error)}).",
            expected=f"All of them begin to train within {config.process_timeout:g} s (process_timeout).",
            fix="Look at what the others say, and at the address and port of the launch.",
        ) from error


@contextmanager
def prepared(accelerator: Accelerator, learner: nn.Module, optimizer: Optimizer) -> Iterator[tuple[nn.Module, Any]]:
    """The learner and the optimizer wrapped for this run; the learner is bare again afterwards."""
    try:
        with warnings.catch_warnings():
            # What torch would have instead of broadcast_buffers, Accelerate does not know yet.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            model, wrapped = accelerator.prepare(learner, optimizer)
        yield model, wrapped
    finally:
        # Instance attributes that Accelerate leaves behind: a deep copy would still run the original's forward.
        for mark in ("forward", "_original_forward", "_is_accelerate_prepared"):
            learner.__dict__.pop(mark, None)
        learner.zero_grad(set_to_none=True)
        accelerator._models.clear()
        accelerator._optimizers.clear()
