"""Everything a run has besides the weights and the optimizer: the book, the best so far, the watchers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor

from petune.errors import TrainingError
from petune.tasks.base import Example
from petune.training.batches import Course, MicroBatch, PlannedStep, length_of, micro_batches
from petune.training.callbacks import Callback, Row, RunStart
from petune.training.evaluation import evaluate
from petune.training.ledger import DivergedError, Ledger, Stopwatch, require_finite
from petune.training.memory import MemoryMeter
from petune.training.report import EVAL, TrainReport
from petune.training.selection import Selection

if TYPE_CHECKING:
    from petune.model.learner import Learner


class Run:
    """The state of one training run.

    Args:
        learner: bare; what is wrapped for several processes is the loop's business.
        course: the plan of the rows, with task and configuration.
        eval_examples: rows for the evaluation at the end of each epoch, or None.
        peak: the largest learning rate.
        selection: which evaluation is the best; None without evaluations.
        class_weights: label -> weight, in class order.
        callbacks: called on the main process only.
        more_identity: further facts that a checkpoint must agree on.
    """

    def __init__(
        self,
        learner: Learner,
        tokenizer: Any,
        course: Course,
        eval_examples: Sequence[Example] | None,
        *,
        peak: float,
        selection: Selection | None,
        class_weights: dict[str, float] | None,
        accelerator: Accelerator,
        meter: MemoryMeter,
        callbacks: Sequence[Callback],
        more_identity: Mapping[str, Any],
    ) -> None:
        self.learner, self.tokenizer, self.course, self.eval_examples = learner, tokenizer, course, eval_examples
        self.task, self.config, self.selection = course.task, course.config, selection
        self.accelerator, self.meter, self.more_identity = accelerator, meter, more_identity
        self.callbacks = list(callbacks) if accelerator.is_main_process else []
        self.class_weights = class_weights
        device = accelerator.device
        self.class_weight = torch.tensor(list(class_weights.values()), device=device) if class_weights else None
        self.peak = peak
        self.step, self.rate = 0, 0.0
        self.tokens = self.real_here = self.positions_here = 0
        self.history: list[Row] = []
        self.notices: list[str] = []
        self.good, self.good_step = learner.state(), 0
        self._unproven: tuple[dict[str, Tensor], int] | None = None
        """The last epoch's weights: finite, but nobody has seen a loss of theirs yet."""
        self.ledger, self.watch = Ledger(device, scaled=accelerator.scaler is not None), Stopwatch()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tells the watchers of start and end; a figure that is not finite puts the last good adapter back.

        Raises:
            TrainingError: in place of a `DivergedError`.
        """
        report = None
        try:
            self.start()
            yield
            report = self.report()
        except DivergedError as error:
            self.learner.restore(self.good)
            raise TrainingError(
                f"{error.what} at step {error.step} of {self.course.total} (learning rate {error.rate:.3g}).",
                expected=f"The learner holds its last good state again, that of step {self.good_step}.",
                fix=f"Lower the learning rate, for example to {self.peak / 3:.1g}, and look for odd rows.",
            ) from None
        finally:
            for callback in self.callbacks:
                callback.on_end(report)

    def steps_left(self) -> Iterator[PlannedStep]:
        """The steps still to do; none for a run that was resumed at its end."""
        return iter(()) if self.is_over else self.course.after(self.step)

    def micro_batches(self, step: PlannedStep) -> Iterator[MicroBatch]:
        """This process's share of a step; counts what is padding on the way."""
        accelerator = self.accelerator
        rows = [row for ranks in step.micro for row in ranks[accelerator.process_index]]
        self.real_here += sum(length_of(self.course.examples[row]) for row in rows)
        for batch in micro_batches(
            step, self.task, self.tokenizer, self.course.examples, accelerator.process_index, accelerator.device
        ):
            self.positions_here += batch.inputs["input_ids"].numel()
            yield batch

    def start(self) -> None:
        """Tells the watchers what is ahead."""
        self.learner.mode(True)  # evaluations leave and restore it
        for callback in self.callbacks:
            callback.on_start(RunStart(self.course.total, self.step, self.config.epochs, list(self.history)))
        self.ledger.restart_clock()

    def enter(self, tokens: int, loss: Tensor, norm: Tensor) -> None:
        """Notes a step before its update, so that on a CPU a bad gradient never reaches the weights."""
        step = self.step + 1
        self.ledger.enter(step, step / self.course.per_epoch, self.rate, tokens, loss, norm)
        self.tokens += tokens

    def step_is_done(self) -> None:
        """Counts the step and tells the watchers, if it is time to."""
        self.step += 1
        if self.ledger.due:
            self.settle()

    def end_epoch(self) -> None:
        """Evaluates and keeps the best.

        Without eval data the weights become the last good ones as soon as a loss of theirs is seen.
        """
        self.settle()
        with self.watch.a_break():
            require_finite(self.learner.parameters(), self.step, self.rate)
            if self.eval_examples is None:
                self._unproven = (self.learner.state(), self.step)
            else:
                self._evaluate_and_select()
        self.ledger.restart_clock()

    @property
    def is_over(self) -> bool:
        """Whether patience has run out, or the last step is done."""
        return self.stopped_early or self.step >= self.course.total

    @property
    def stopped_early(self) -> bool:
        """Whether patience has run out before the last step."""
        return self.selection is not None and self.selection.over and self.step < self.course.total

    def settle(self) -> None:
        """Writes the steps since the last time into the history.

        Raises:
            DivergedError: when one of them was not finite.
        """
        for row in self.ledger.settle(self.watch.seconds):
            if self._unproven is not None:
                (self.good, self.good_step), self._unproven = self._unproven, None
            self.history.append(row)
            for callback in self.callbacks:
                callback.on_step(row)

    def _evaluate_and_select(self) -> None:
        assert self.selection is not None
        figures = self.figures()
        row = {"step": self.step, "epoch": self.step / self.course.per_epoch, "seconds": round(self.watch.seconds, 3)}
        row |= {EVAL + name: value for name, value in figures.items()}
        self.history.append(row)
        if (doubt := self.selection.doubt(figures)) and doubt not in self.notices:
            self.notices.append(doubt)
        if self.selection.improves(figures, self.step) or not self.config.keep_best:
            self.keep()
        for callback in self.callbacks:
            callback.on_evaluate(row)

    def figures(self) -> dict[str, float]:
        """Evaluates the present weights.

        Raises:
            DivergedError: when the loss is not finite.
        """
        assert self.eval_examples is not None
        report = evaluate(
            self.learner, self.task, self.tokenizer, self.eval_examples, self._metrics(), self.config.batch_size
        )
        if not math.isfinite(report["loss"]):
            raise DivergedError(f"The evaluation's loss became {report['loss']}", self.step, self.rate)
        return self._as_on_main(dict(report))

    def _as_on_main(self, figures: dict[str, float]) -> dict[str, float]:
        """The main process's figures: a last bit that differs must not make one process stop and another go on."""
        if self.accelerator.num_processes == 1:
            return figures
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.broadcast(values, src=0)
        return dict(zip(figures, values.tolist(), strict=True))

    def _metrics(self) -> tuple[Any, ...]:
        return (*self.task.default_metrics(), *self.config.metrics)

    def keep(self) -> None:
        """Makes the present weights those to fall back to."""
        self.good, self.good_step = self.learner.state(), self.step

    @property
    def best_state(self) -> dict[str, Tensor] | None:
        """The best adapter's tensors, where the run is to end with them."""
        chosen = self.config.keep_best and self.selection is not None and self.selection.best_step is not None
        return self.good if chosen else None

    def report(self) -> TrainReport:
        """The story so far."""
        selection, positions = self.selection, max(self.positions_here, 1)
        return TrainReport(
            history=self.history,
            best=selection.best if selection else {},
            best_step=selection.best_step if selection else None,
            metric=selection.metric if selection else None,
            steps=self.step,
            seconds=self.watch.seconds,
            real_tokens=self.tokens,
            tokens_per_second=self.tokens / max(self.watch.training_seconds, 1e-9),
            padding_share=1 - self.real_here / positions,
            peak_memory_megabytes=self.meter.peak_megabytes,
            memory_measured=self.meter.measured,
            trainable_parameters=sum(p.numel() for p in self.learner.parameters() if p.requires_grad),
            stopped_early=self.stopped_early,
            class_weights=self.class_weights,
            notices=self.notices,
        )
