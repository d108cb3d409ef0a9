"""THE training loop: one page, read top to bottom. It never asks which method it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed
from torch import nn

from petune.config import TrainConfig
from petune.errors import TrainingError
from petune.methods.base import Progress
from petune.tasks.base import Example, Task
from petune.training.accelerating import accelerating, prepared
from petune.training.batches import Course, PlannedStep
from petune.training.callbacks import Callback, HistoryWriter
from petune.training.class_weight import class_weights
from petune.training.conclusion import conclude
from petune.training.memory import MemoryMeter
from petune.training.optimizer import make_optimizer, rate_share, set_rate
from petune.training.progress import make_progress
from petune.training.report import TrainReport
from petune.training.resume import go_on, save_if_due
from petune.training.run import Run
from petune.training.selection import Selection, make_selection, refuse_without_evaluation

if TYPE_CHECKING:
    from petune.model.learner import Learner


def train(
    learner: Learner,
    task: Task,
    tokenizer: Any,
    examples: Sequence[Example],
    eval_examples: Sequence[Example] | None,
    config: TrainConfig,
    *,
    resume: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    identity: Mapping[str, Any] | None = None,
) -> TrainReport:
    """Trains the learner in place.

    The seed is set here once more (the Tuner has set it before the adapter was built), per process, so dropout is the
    same whatever happened in between.

    Args:
        examples: encoded rows with labels; under several processes each holds all of them.
        eval_examples: evaluated at the end of each epoch; None: no evaluation, no early stop, no best adapter.
        resume: None, `"auto"` (the newest whole checkpoint of `output_dir`, if any) or a path.
        callbacks: watch the run on the main process.
        identity: further facts that a checkpoint must agree on, such as the backbone's fingerprint.

    Raises:
        TrainingError: no rows, or a figure became non-finite; the learner then holds its last good state.
        CheckpointError: `resume` means no checkpoint of this run.
        ConfigError: knobs that contradict each other or the data.
    """
    selection = _checked(task, examples, eval_examples, config)
    weights = class_weights(task, examples, config)
    peak = config.learning_rate or learner.method.learning_rate
    dropout, checkpointing = config.backbone_dropout, config.gradient_checkpointing
    with ExitStack() as stack:
        accelerator = stack.enter_context(accelerating(config))
        learner.place(accelerator.device)
        stack.enter_context(learner.fitting(backbone_dropout=dropout, gradient_checkpointing=checkpointing))
        optimizer = make_optimizer(learner, config, peak)
        model, optimizer = stack.enter_context(prepared(accelerator, learner, optimizer))
        set_seed(config.seed, device_specific=True)
        meter, course = MemoryMeter(accelerator.device), Course(task, examples, config, accelerator.num_processes)
        run = Run(
            learner, tokenizer, course, eval_examples,
            peak=peak, selection=selection, class_weights=weights, accelerator=accelerator, meter=meter,
            callbacks=[*_own_callbacks(config, meter), *callbacks], more_identity=identity or {},
        )  # fmt: skip
        go_on(run, resume, optimizer)
        with run.watched():
            for step in run.steps_left():
                take_step(run, step, model, optimizer)
                if step.ends_epoch:
                    run.end_epoch()
                save_if_due(run, optimizer)
                if run.is_over:
                    break
            conclude(run)
        return run.report()


def take_step(run: Run, step: PlannedStep, model: nn.Module, optimizer: Any) -> None:
    """One optimizer step: forward and backward for each micro-batch, clip, update, and the method's own touch."""
    learner, task, config, accelerator = run.learner, run.task, run.config, run.accelerator
    run.rate = run.peak * rate_share(run.step, run.course.total, config)
    set_rate(optimizer, run.rate)
    loss = torch.zeros((), device=accelerator.device)
    for batch in run.micro_batches(step):
        with nullcontext() if batch.last else accelerator.no_sync(model):
            logits = model(**batch.inputs).float()
            summed = task.loss(
                logits, batch.labels, label_smoothing=config.label_smoothing, class_weight=run.class_weight
            )
            share = summed / max(step.items, 1)  # of the whole step's mean, whatever forward or process it is in
            run.meter.sample()
            penalty = learner.method.penalty(learner.layers) if batch.last else None
            # Gradients are averaged over the processes: times their number makes it the sum of the shares.
            whole = share * accelerator.num_processes
            accelerator.backward(whole if penalty is None else whole + penalty)
        loss += share.detach()
    norm = accelerator.clip_grad_norm_(learner.parameters(), config.max_grad_norm or float("inf"))
    run.enter(step.tokens, accelerator.reduce(loss), norm)
    optimizer.step()
    if optimizer.step_was_skipped:  # fp16 leaves out a step whose gradients overflowed, and lowers its scale
        run.ledger.skipped(accelerator.scaler.get_scale(), run.step + 1, run.rate)
        optimizer.zero_grad(set_to_none=True)  # they tell nothing, but the method's schedule goes on
    learner.method.after_step(learner.layers, Progress(run.step + 1, run.course.total))
    optimizer.zero_grad(set_to_none=True)
    run.step_is_done()


def _checked(
    task: Task, examples: Sequence[Example], eval_examples: Sequence[Example] | None, config: TrainConfig
) -> Selection | None:
    """What can be refused before anything is computed: no rows, and figures that no evaluation will give."""
    for what, rows in (("train on", examples), ("evaluate", eval_examples)):
        if rows is not None and not len(rows):
            raise TrainingError(f"There are no rows to {what}.", expected="At least one.", fix="Check the data.")
    if eval_examples is None:
        refuse_without_evaluation(config)
        return None
    from petune.metrics.base import compute  # imports evaluate, which takes seconds

    # A rehearsal with perfect answers: a metric that is unknown or fails is told now and not after an epoch.
    truth = task.references(eval_examples)
    figures = compute((*task.default_metrics(), *config.metrics), truth, truth, task.labels)
    return make_selection(config, task.headline(), {*figures, "loss"})


def _own_callbacks(config: TrainConfig, meter: MemoryMeter) -> list[Callback]:
    writer = [HistoryWriter(Path(config.output_dir))] if config.output_dir is not None else []
    return [*writer, *([make_progress(meter)] if config.progress == "auto" else [])]
