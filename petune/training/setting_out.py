"""Before the first step: processes meet and agree, learners are put into place, runs are made or gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from petune.training.accelerating import accelerating, prepared
from petune.training.batch_size import sized
from petune.training.caching import Caches
from petune.training.holding import holding
from petune.training.memory import MemoryMeter, bytes_of
from petune.training.optimizer import make_optimizer
from petune.training.ranks.agreement import agree_on_adapter, agree_on_run
from petune.training.ranks.lost import watched
from petune.training.ranks.sharding import refuse_unsharded, sharded
from petune.training.resume import go_on
from petune.training.run import Run
from petune.training.shortcuts import shortcuts
from petune.training.signals import Leaving, leaving_cleanly
from petune.training.trainee import Checked, Trainee, agreed, refuse_several_processes
from petune.training.watching import watchers


@contextmanager
def set_out(trainees: Sequence[Trainee], resume: str | Path | None) -> Iterator[tuple[list[Run], Leaving]]:
    """The runs of all trainees, ready for their next step, and how they leave early; all is put back afterwards.

    Raises:
        TrainingError, CheckpointError, ConfigError, DataError, ProcessError: what speaks against the run.
    """
    config, checked = agreed(trainees), [trainee.checked() for trainee in trainees]
    runs: list[Run] = []
    with ExitStack() as stack:
        accelerator = stack.enter_context(accelerating(config))
        refuse_several_processes(accelerator, trainees)
        refuse_unsharded(trainees, accelerator)
        stack.enter_context(watched(accelerator, config, lambda: _place(runs)))
        agree_on_run(accelerator, trainees[0], resume)
        stack.enter_context(holding(trainees, accelerator))
        runs += _made(trainees, checked, accelerator, stack, resume)
        go_on(runs, resume)
        for run in runs:
            stack.callback(run.close)
        leaving = stack.enter_context(leaving_cleanly(runs, accelerator))
        for run in runs:
            agree_on_adapter(run, "before the first step")
            run.start()
        yield runs, leaving


def _made(
    trainees: Sequence[Trainee],
    checked: Sequence[Checked],
    accelerator: Accelerator,
    stack: ExitStack,
    resume: str | Path | None,
) -> Iterator[Run]:
    """A run for each trainee: wrapped, with its cache, its batch size and its shards."""
    for trainee in trainees:
        trainee.learner.place(accelerator.device)
    alone = len(trainees) == 1
    wrapped = [stack.enter_context(_fitting(trainee, accelerator, alone=alone)) for trainee in trainees]
    weights = bytes_of(tensor for trainee in trainees for tensor in trainee.learner.weights())
    meter = MemoryMeter(accelerator.device, weights)
    caches = Caches(accelerator, stack)
    kept = [caches.for_trainee(trainee) for trainee in trainees]
    trainees = sized(trainees, accelerator, resume)
    trainees = stack.enter_context(sharded(trainees, accelerator))
    set_seed(trainees[0].config.seed, device_specific=True)
    for each in zip(trainees, checked, wrapped, watchers(trainees, meter, accelerator), kept, strict=True):
        trainee, known, pair, watching, caching = each
        yield Run(trainee, known, accelerator, meter, *pair, watching, caching)


@contextmanager
def _fitting(trainee: Trainee, accelerator: Accelerator, *, alone: bool) -> Iterator[tuple[Any, Any]]:
    """A learner in the state in which it learns; it and its optimizer as Accelerate wraps them."""
    learner, config = trainee.learner, trainee.config
    dropout, checkpointing = config.backbone_dropout, config.gradient_checkpointing
    # A joint batch is padded to the longest row of all, and packed rows are not compiled.
    padding_free = config.padding_free if alone and not config.compile else False
    fitting = learner.fitting(backbone_dropout=dropout, gradient_checkpointing=checkpointing, padding_free=padding_free)
    with fitting, shortcuts(trainee, accelerator, alone=alone):
        optimizer = make_optimizer(learner, config, trainee.peak)
        with prepared(accelerator, learner, optimizer) as wrapped:
            yield wrapped


def _place(runs: Sequence[Run]) -> tuple[int, int]:
    """The step that is being made, of how many."""
    return (runs[0].step + 1, runs[0].course.total) if runs else (0, 0)
