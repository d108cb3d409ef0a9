"""Accelerate, entered and left cleanly: which device, which processes, which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.optim import Optimizer

from petune.config import TrainConfig
from petune.errors import ConfigError
from petune.training.ranks.asking import unheard


@contextmanager
def accelerating(config: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator of our own for the length of one run.

    Accelerate keeps its state in process-wide dictionaries and refuses a second precision; they are put aside here and
    back at the end, so that two fits may differ, and an Accelerator of yours is what it was. Without an accelerator
    device `cpu=True` is said outright: otherwise several CPU processes would train apart without a word.

    Raises:
        ConfigError: for fp16 on a CPU.
    """
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
        with unheard():  # what a launcher says of FSDP is answered by petune.training.ranks.sharding
            accelerator = Accelerator(cpu=cpu, mixed_precision=config.mixed_precision, kwargs_handlers=[quiet])
        accelerator.gradient_accumulation_steps = 1  # an environment variable may set it; the loop divides by itself
        yield accelerator
    finally:
        for shared, before in kept:
            shared.clear()
            shared.update(before)


@contextmanager
def prepared(accelerator: Accelerator, learner: nn.Module, optimizer: Optimizer) -> Iterator[tuple[nn.Module, Any]]:
    """The learner and the optimizer wrapped for this run; the learner is bare again afterwards."""
    try:
        model, wrapped = accelerator.prepare(learner, optimizer)
        yield model, wrapped
    finally:
        # Instance attributes that Accelerate leaves behind: a deep copy would still run the original's forward.
        for mark in ("forward", "_original_forward", "_is_accelerate_prepared"):
            learner.__dict__.pop(mark, None)
        learner.zero_grad(set_to_none=True)
        accelerator._models.clear()
        accelerator._optimizers.clear()
