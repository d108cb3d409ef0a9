"""THE training loop: one page, read top to bottom. It never asks which method it has, nor how many adapters.

A joint fit is the same loop with several runs. Each forward of the backbone takes the next micro-batch of every run
that is not over; batches, optimizer, schedule, selection and report are each run's own.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from petune.config import TrainConfig
from petune.errors import TrainingError
from petune.methods.base import Progress
from petune.model.joint import forwards, logits_together
from petune.tasks.base import Example, Task
from petune.training.batches import MicroBatch
from petune.training.callbacks import Callback
from petune.training.conclusion import conclude
from petune.training.optimizer import rate_share, set_rate
from petune.training.ranks.agreement import agree_on_adapter
from petune.training.report import TrainReport
from petune.training.resume import save_if_due
from petune.training.run import Run
from petune.training.setting_out import set_out
from petune.training.trainee import Trainee

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
    """Trains one learner in place; the arguments are those of `Trainee`.

    Args:
        resume: None, `"auto"` (the newest whole checkpoint of `output_dir`, if any) or a path.

    Raises:
        TrainingError: no rows, or a figure became non-finite; the learner then holds its last good state.
        ProcessError: a process was lost, or they do not train the same adapter.
        CheckpointError: `resume` means no checkpoint of this run.
        ConfigError: knobs that contradict each other or the data.
    """
    alone = Trainee(learner, task, tokenizer, examples, eval_examples, config, callbacks, identity or {})
    (outcome,) = train_together([alone], resume=resume)
    if isinstance(outcome, TrainingError):
        raise outcome
    return outcome


def train_together(
    trainees: Sequence[Trainee], *, resume: str | Path | None = None
) -> list[TrainReport | TrainingError]:
    """Trains every learner in place, each as it would be trained alone; what each came to, in their order.

    The seed is set here once more (it was set before each adapter was built), per process, so dropout is the same
    whatever happened in between. Several learners draw their dropout from the first one's seed.

    Raises:
        TrainingError, CheckpointError, ConfigError: as `train`. A figure that is not finite ends its own run only, and
            its error is returned.
        KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, once the running step is done and saved.
    """
    with set_out(trainees, resume) as (runs, leaving):
        first, going = runs[0].step + 1, runs
        while going := leaving.ahead([run for run in going if not _is_concluded(run)]):
            for run in forward_and_backward(going, alone=len(runs) == 1):
                with run.guarded():
                    take_step(run)
                    if run.step == first:
                        agree_on_adapter(run, "after the first step")
                    with _pausing(other for other in going if other is not run):
                        if run.planned.ends_epoch:
                            run.end_epoch()
                        save_if_due(run)
        return [run.outcome for run in runs if run.outcome is not None]


def _is_concluded(run: Run) -> bool:
    """Whether a run is over; the first time it is, its end is drawn up."""
    if run.is_over:
        if run.failure is None:
            with run.guarded():
                conclude(run)
                agree_on_adapter(run, "at the end")
        run.close(run.failure or run.report())
    return run.is_over


@contextmanager
def _pausing(others: Iterator[Run]) -> Iterator[None]:
    """What one run does for itself alone is no training time of the others."""
    with ExitStack() as stack:
        for other in others:
            stack.enter_context(other.paused())
        yield


def forward_and_backward(runs: Sequence[Run], *, alone: bool) -> list[Run]:
    """The next micro-batch of each run, forward and backward; the runs whose step is then due.

    Args:
        alone: whether there never was another run, which may have set the modes of the backbone's blocks.
    """
    batches = [run.next_batch() for run in runs]
    accelerator, model = runs[0].accelerator, runs[0].model
    # Only a run that is alone has several processes, which exchange gradients when its step is due.
    with nullcontext() if batches[0].last else accelerator.no_sync(model):
        for indices in _forwards(runs, batches):
            some, theirs = [runs[index] for index in indices], [batches[index] for index in indices]
            if not alone:
                some[0].learner.mode(True)
            shares = [_share(*each) for each in zip(some, theirs, _logits(some, theirs), strict=True)]
            accelerator.backward(functools.reduce(operator.add, shares))
    return [run for run, batch in zip(runs, batches, strict=True) if batch.last]


def _forwards(runs: Sequence[Run], batches: Sequence[MicroBatch]) -> list[list[int]]:
    """Which runs share a forward of the backbone, as indices."""
    if len(runs) == 1:
        return [[0]]
    known = ["trunk_states" in batch.more for batch in batches]
    return forwards([run.learner for run in runs], [batch.inputs for batch in batches], known)


def _logits(runs: Sequence[Run], batches: Sequence[MicroBatch]) -> list[Tensor]:
    """The logits of each run's batch, from one forward."""
    if len(runs) == 1:
        return [runs[0].model(**batches[0].inputs, **batches[0].more)]
    with runs[0].accelerator.autocast():
        answers = logits_together(
            [run.learner for run in runs],
            [batch.inputs for batch in batches],
            [batch.more.get("trunk_states") for batch in batches],
        )
    for run, answer in zip(runs, answers, strict=True):
        run.positions_here += answer.added
    return [_cut(answer.logits, batch.labels) for answer, batch in zip(answers, batches, strict=True)]


def _cut(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits per piece without those of the positions that only stacking has added."""
    return logits[:, : labels.shape[1]] if logits.dim() == 3 else logits


def _share(run: Run, batch: MicroBatch, logits: Tensor) -> Tensor:
    """What a micro-batch adds to the loss of its step, the method's penalty included."""
    config, method = run.config, run.learner.method
    summed = run.task.loss(
        logits.float(), batch.labels, label_smoothing=config.label_smoothing, class_weight=run.class_weight
    )
    share = summed / max(run.planned.items, 1)  # of the whole step's mean, whatever forward or process it is in
    if not batch.counts:
        share = share * 0
    run.loss += share.detach()
    run.meter.sample()
    penalty = method.penalty(run.learner.layers) if batch.last else None
    # Gradients are averaged over the processes: times their number makes it the sum of the shares.
    whole = share * run.accelerator.num_processes
    return whole if penalty is None else whole + penalty


def take_step(run: Run) -> None:
    """One optimizer step with the gradients that are there: clip, update, and the method's own touch."""
    learner, config, accelerator, optimizer = run.learner, run.config, run.accelerator, run.optimizer
    run.rate = run.peak * rate_share(run.step, run.course.total, config)
    set_rate(optimizer, run.rate)
    norm = accelerator.clip_grad_norm_(learner.parameters(), config.max_grad_norm or float("inf"))
    run.enter(run.planned.tokens, accelerator.reduce(run.loss), norm)
    optimizer.step()
    if optimizer.step_was_skipped:  # fp16 leaves out a step whose gradients overflowed, and lowers its scale
        run.ledger.skipped(accelerator.scaler.get_scale(), run.step + 1, run.rate)
        optimizer.zero_grad(set_to_none=True)  # they tell nothing, but the method's schedule goes on
    learner.method.after_step(learner.layers, Progress(run.step + 1, run.course.total))
    optimizer.zero_grad(set_to_none=True)
    run.step_is_done()
