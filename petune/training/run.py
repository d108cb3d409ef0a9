"""Everything a run has besides the weights and the optimizer: the book, the best so far, the watchers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from petune.errors import ConfigError, TrainingError
from petune.training.batches import Course, MicroBatch, PlannedStep, length_of, micro_batches
from petune.training.caching import NO_CACHE, Caching
from petune.training.callbacks import Callback, Row, RunStart
from petune.training.evaluation import evaluate
from petune.training.fallback import KEPT_EVERY, Fallback
from petune.training.ledger import DivergedError, Ledger, Stopwatch, require_finite
from petune.training.memory import MemoryMeter
from petune.training.ranks.dealing import Ranks
from petune.training.report import EVAL, TrainReport
from petune.training.trainee import Checked, Trainee

ROWS_TOLD = 16
"""Rows of a bad step that its error names."""


class Run:
    """The state of one training run.

    Args:
        trainee: its learner is bare; what is wrapped for several processes is `model`.
        checked: how the best evaluation is found, and the weights of the classes.
        meter: of the whole process.
        model, optimizer: as Accelerate prepared them.
        own: what petune itself watches with; all watchers are called on the main process only.
        caching: what the trunk makes of the rows, where that is kept.
    """

    def __init__(
        self,
        trainee: Trainee,
        checked: Checked,
        accelerator: Accelerator,
        meter: MemoryMeter,
        model: Any,
        optimizer: Any,
        own: Sequence[Callback] = (),
        caching: Caching = NO_CACHE,
    ) -> None:
        self.trainee = trainee
        self.learner, self.task, self.tokenizer = trainee.learner, trainee.task, trainee.tokenizer
        self.config, self.peak, self.more_identity = trainee.config, trainee.peak, trainee.identity
        self.eval_examples = trainee.eval_examples
        self.course = Course(trainee.task, trainee.examples, trainee.config, accelerator.num_processes)
        self.selection, self.class_weights = checked
        self.accelerator, self.meter, self.model, self.optimizer = accelerator, meter, model, optimizer
        self.callbacks = [*own, *trainee.callbacks] if accelerator.is_main_process else []
        device, weights = accelerator.device, checked.class_weights
        self.class_weight = torch.tensor(list(weights.values()), device=device) if weights else None
        self.step, self.rate, self.saved_at = 0, 0.0, 0
        self.is_mid_step = False
        self.tokens = self.real_here = self.positions_here = 0
        self.history: list[Row] = []
        self.cache, self.trunk_identity, self._missed = caching.cache, caching.identity, 0
        self.notices: list[str] = [*trainee.notices, *([caching.notice] if caching.notice else [])]
        self.good = Fallback(self.learner)
        self.ledger, self.watch = Ledger(device, scaled=accelerator.scaler is not None), Stopwatch(caching.seconds)
        self._ahead = self._batches()
        self.planned: PlannedStep
        self.loss: Tensor
        """What the micro-batches of the planned step have added up to."""
        self.failure: TrainingError | None = None
        self.outcome: TrainReport | TrainingError | None = None
        self._is_open = True

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A figure that is not finite puts the last good adapter back and ends this run, and no other."""
        try:
            yield
        except DivergedError as error:
            self.good.restore()
            rows = self.course.rows_of(error.step) if error.in_step else []
            more = f" and {len(rows) - ROWS_TOLD} more" if len(rows) > ROWS_TOLD else ""
            seen = f" Its rows, counted from 0, are {', '.join(map(str, rows[:ROWS_TOLD]))}{more}." if rows else ""
            self.failure = TrainingError(
                f"{error.what} at step {error.step} of {self.course.total} (learning rate {error.rate:.3g}).{seen}",
                expected=f"The learner holds its last good state again, that of step {self.good.step}.",
                fix=f"Lower the learning rate, for example to {self.trainee.calmer_peak:.1g}, and look for odd rows.",
            )

    def close(self, outcome: TrainReport | TrainingError | None = None) -> None:
        """Tells the watchers of the end, once; without an outcome it was broken off."""
        if self._is_open:
            self._is_open, self.outcome = False, outcome
            for callback in self.callbacks:
                callback.on_end(outcome if isinstance(outcome, TrainReport) else None)

    def next_batch(self) -> MicroBatch:
        """What this run gives to the next forward; `planned` is the step that it belongs to."""
        self.planned, batch = next(self._ahead)
        self.is_mid_step = not batch.last
        return batch

    def _batches(self) -> Iterator[tuple[PlannedStep, MicroBatch]]:
        """All micro-batches that are still to do, when it is first asked."""
        for step in self.course.after(self.step):
            self.loss = torch.zeros((), device=self.accelerator.device)
            for batch in self._micro_batches(step):
                yield step, batch

    def _micro_batches(self, step: PlannedStep) -> Iterator[MicroBatch]:
        """This process's share of a step; counts what is padding on the way."""
        accelerator = self.accelerator
        rows = [row for ranks in step.micro for row in ranks[accelerator.process_index]]
        self.real_here += sum(length_of(self.course.examples[row]) for row in rows)
        for batch in micro_batches(
            step,
            self.task,
            self.tokenizer,
            self.course.examples,
            accelerator.process_index,
            accelerator.device,
            self.cache,
            focuses=self.learner.focuses,
        ):
            self._missed += self.cache is not None and "trunk_states" not in batch.more
            self.positions_here += batch.positions
            yield batch

    def start(self) -> None:
        """Tells the watchers what is ahead."""
        self.learner.mode(True)  # evaluations leave and restore it
        by = (self.selection.metric, self.selection.greater) if self.selection else ()
        for callback in self.callbacks:
            callback.on_start(RunStart(self.course.total, self.step, self.config.epochs, list(self.history), *by))
        self.ledger.restart_clock()

    def enter(self, tokens: int, loss: Tensor, norm: Tensor) -> None:
        """Notes a step before its update, so that on a CPU a bad gradient never reaches the weights."""
        step = self.step + 1
        self.ledger.enter(step, self.course.epochs_at(step), self.rate, tokens, loss, norm)
        self.tokens += tokens

    def step_is_done(self) -> None:
        """Counts the step and tells the watchers, if it is time to."""
        self.step += 1
        if self.ledger.due:
            self.settle()
        if self.step % KEPT_EVERY == 0:
            self.offer()

    def offer(self) -> None:
        """Without evaluations: makes the present weights those to fall back to, once a loss of theirs is finite.

        Raises:
            DivergedError: when they are not finite.
        """
        if self.eval_examples is None:
            self.settle()
            self.good.offer(self.step, self.rate)

    def end_epoch(self) -> None:
        """Evaluates and keeps the best.

        Without eval data the weights become the last good ones as soon as a loss of theirs is seen; see `offer`.
        """
        self.settle()
        self._refuse_changing_inputs()
        with self.watch.a_break():
            require_finite(self.learner.parameters(), self.step, self.rate)
            self.offer()
            if self.eval_examples is not None:
                self._evaluate_and_select()
        self.ledger.restart_clock()

    def _refuse_changing_inputs(self) -> None:
        """Gives a cache up whose rows are no longer those that enter the backbone, as augmentation changes them.

        Raises:
            ConfigError: `cache_trunk=True`.
        """
        if not self._missed:
            return
        reason = f"{self._missed} batches held rows that change from epoch to epoch."
        if self.config.cache_trunk is True:
            raise ConfigError(f"cache_trunk=True, but {reason}", fix="Pass cache_trunk='auto' or False.")
        self.notices.append(f"The trunk is not cached any more: {reason}")
        self.cache, self._missed = None, 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that goes to another run counts neither as training time nor against the speed."""
        began = time.perf_counter()
        with self.watch.a_break():
            yield
        self.ledger.leave_out(time.perf_counter() - began)

    @property
    def is_over(self) -> bool:
        """Whether patience has run out, the last step is done, or a figure was not finite."""
        return self.failure is not None or self.stopped_early or self.step >= self.course.total

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
            self.good.prove()
            self.history.append(row)
            for callback in self.callbacks:
                callback.on_step(row)

    def _evaluate_and_select(self) -> None:
        assert self.selection is not None
        figures = self.figures()
        row = {"step": self.step, "epoch": self.course.epochs_at(self.step), "seconds": round(self.watch.seconds, 3)}
        row |= {EVAL + name: value for name, value in figures.items()}
        self.history.append(row)
        if (doubt := self.selection.doubt(figures)) and doubt not in self.notices:
            self.notices.append(doubt)
        if self.selection.improves(figures, self.step) or not self.config.keep_best:
            self.good.keep(self.step)
        for callback in self.callbacks:
            callback.on_evaluate(row)

    def figures(self) -> dict[str, float]:
        """Evaluates the present weights.

        Raises:
            DivergedError: when the loss is not finite.
        """
        assert self.eval_examples is not None
        report = evaluate(
            self.learner,
            self.task,
            self.tokenizer,
            self.eval_examples,
            self._metrics(),
            self.config.rows,
            cache=self.cache,
            max_tokens=self.config.max_tokens,
            ranks=Ranks.of(self.accelerator),
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

    @property
    def best_state(self) -> dict[str, Tensor] | None:
        """The best adapter's tensors, where the run is to end with them."""
        chosen = self.config.keep_best and self.selection is not None and self.selection.best_step is not None
        return self.good.state if chosen else None

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
