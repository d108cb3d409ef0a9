"""Which adapter a run ends with: the best, the last, or the last that was finite."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from petune.errors import ConfigError, TrainingError
from petune.training.callbacks import Callback
from petune.training.evaluation import evaluate
from petune.training.ledger import DivergedError, Ledger
from petune.training.loop import train
from petune.training.run import ROWS_TOLD, Run
from tests.training.fakes import VOCABULARY, FakeLearner, FakeTask, Shaping, examples, settings


def run(config, *, learner=None, callbacks=(), evaluated=20, rows=24):
    """A learner after a run, and the report."""
    learner = learner or FakeLearner()
    held_out = examples(evaluated, seed=9) if evaluated else None
    return learner, train(learner, FakeTask(), None, examples(rows), held_out, config, callbacks=callbacks)


def accuracies(report) -> list[float]:
    """One per evaluation."""
    return [row["eval_accuracy"] for row in report.history if "eval_accuracy" in row]


def measured(learner) -> float:
    """The accuracy of the present weights."""
    return evaluate(learner, FakeTask(), None, examples(20, seed=9), ("accuracy",), 8)["accuracy"]


def test_the_best_adapter_is_kept():
    """The run ends with the weights of its best evaluation, and the report says which that was."""
    learner, report = run(settings(epochs=6, learning_rate=0.3, lr_scheduler="constant"))
    best = max(accuracies(report))
    assert best > accuracies(report)[-1], "the rate should be high enough for the last epoch to be worse"
    assert measured(learner) == report.best["accuracy"] == best
    assert report.best_step == 6 * (accuracies(report).index(best) + 1)


def test_the_last_adapter_is_kept_on_request():
    """`keep_best=False` ends with the last weights; the best evaluation is still told."""
    learner, report = run(settings(epochs=6, learning_rate=0.3, lr_scheduler="constant", keep_best=False))
    assert measured(learner) == accuracies(report)[-1] < report.best["accuracy"]


def test_patience_stops_early():
    """The run stops once `patience` evaluations in a row were no better, ties included."""
    _, report = run(settings(epochs=50, learning_rate=1e-9, patience=3))
    assert len(accuracies(report)) == 4 and report.steps == 4 * 6
    assert report.stopped_early and report.best_step == 6
    assert "stopped early" in str(report)


def test_a_figure_that_should_fall_is_followed_downwards():
    """`metric="loss"` prefers the smallest; `greater_is_better` overrides what is known."""
    _, down = run(settings(epochs=4, metric="loss"))
    losses = [row["eval_loss"] for row in down.history if "eval_loss" in row]
    assert down.best["loss"] == min(losses)
    _, up = run(settings(epochs=4, metric="loss", greater_is_better=True))
    assert up.best["loss"] == max(losses)


def test_a_users_function_can_choose_the_best():
    """A function given in `metrics` is computed and may be the chosen figure."""

    def hits(y_true, y_pred):
        return float(sum(a == b for a, b in zip(y_true, y_pred, strict=True)))

    _, report = run(settings(metrics=(hits,), metric="hits", greater_is_better=True))
    with pytest.raises(ConfigError, match="greater_is_better"):
        run(settings(metrics=(hits,), metric="hits"))
    assert report.metric == "hits" and report.best["hits"] == 20 * report.best["accuracy"]


class Poison(Callback):
    """Makes a weight NaN after a given step."""

    def __init__(self, learner: FakeLearner, step: int) -> None:
        self.learner, self.step, self.states = learner, step, {}

    def on_step(self, row):
        if row["step"] == self.step:
            with torch.no_grad():
                self.learner.classifier.bias[0] = float("nan")

    def on_evaluate(self, row):
        self.states[row["step"]] = self.learner.state()


@pytest.mark.parametrize("rows_are_evaluated", [True, False])
def test_nan_puts_the_last_good_adapter_back(rows_are_evaluated):
    """A NaN loss stops the run with step and rate; the learner holds a finite, earlier state."""
    learner = FakeLearner()
    poison = Poison(learner, step=8)
    with pytest.raises(TrainingError, match=r"The loss became nan at step 9 of 12 \(learning rate 0\.0") as caught:
        run(settings(metric="loss" if rows_are_evaluated else None), learner=learner, callbacks=[poison],
            evaluated=20 if rows_are_evaluated else 0)  # fmt: skip
    assert "step 6" in str(caught.value) and "Lower the learning rate" in str(caught.value)
    assert all(bool(tensor.isfinite().all()) for tensor in learner.state().values())
    assert not torch.equal(learner.classifier.weight, FakeLearner().classifier.weight)
    if rows_are_evaluated:
        assert all(torch.equal(poison.states[6][name], tensor) for name, tensor in learner.state().items())


@pytest.mark.parametrize("every, bad, good", [(None, 45, 40), (None, 19, 0), (7, 45, 42), (7, 40, 35)])
def test_without_evaluations_the_last_kept_weights_come_back(tmp_path, every, bad, good):
    """Those of the last checkpoint or of the last twenty steps whose loss was seen, also in the first epoch."""
    learner = FakeLearner()
    where = {"output_dir": tmp_path, "save_every": every} if every else {}
    with pytest.raises(TrainingError, match=f"that of step {good}"):
        run(settings(epochs=1, batch_size=1, **where), learner=learner, callbacks=[Poison(learner, step=bad)],
            evaluated=0, rows=50)  # fmt: skip
    assert all(bool(tensor.isfinite().all()) for tensor in learner.state().values())


class Allergic(FakeLearner):
    """Cannot bear one piece."""

    def forward(self, input_ids, attention_mask):
        logits = super().forward(input_ids, attention_mask)
        return logits.masked_fill((input_ids == VOCABULARY - 1).any(1, keepdim=True), float("nan"))


@pytest.mark.parametrize("batch_size", [1, 4, 24])
def test_the_rows_of_a_bad_step_are_told(batch_size):
    """The one row that makes the loss NaN is among those that the error names, or among those it only counts."""
    rows = [{**row, "input_ids": [min(piece, VOCABULARY - 2) for piece in row["input_ids"]]} for row in examples(24)]
    rows[13]["input_ids"][0] = VOCABULARY - 1
    with pytest.raises(TrainingError, match="The loss became nan") as caught:
        train(Allergic(), FakeTask(), None, rows, None, settings(batch_size=batch_size))
    told = re.search(r"Its rows, counted from 0, are ([\d, ]+)( and \d+ more)?\.", str(caught.value))
    assert told is not None
    named = [int(row) for row in told[1].split(", ")]
    assert 13 in named and len(named) == min(batch_size, ROWS_TOLD)
    assert (told[2] or "") == (f" and {24 - ROWS_TOLD} more" if batch_size == 24 else "")


def test_nan_before_the_first_evaluation_puts_the_start_back():
    """With nothing evaluated yet, the last good state is the one at the start."""
    learner = FakeLearner()
    with pytest.raises(TrainingError, match="step 3"):
        run(settings(), learner=learner, callbacks=[Poison(learner, step=2)])
    assert all(torch.equal(FakeLearner().state()[name], tensor) for name, tensor in learner.state().items())


@pytest.mark.parametrize("optimizer, rate", [("sgd", 1e38), ("adamw", 1e30)])
@pytest.mark.parametrize("evaluated", [0, 20])
def test_an_absurd_rate_never_leaves_a_bad_adapter(optimizer, rate, evaluated):
    """Whichever figure overflows first, in the middle or in the last step, the run fails and the weights are finite."""
    learner = FakeLearner()
    with pytest.raises(TrainingError, match="learning rate"):
        config = settings(epochs=4, batch_size=24, optimizer=optimizer, learning_rate=rate, max_grad_norm=0)
        run(config, learner=learner, evaluated=evaluated)
    assert all(bool(tensor.isfinite().all()) for tensor in learner.state().values())


class BadGradient(FakeLearner):
    """Its fifth backward gives one infinite gradient, while every loss is finite."""

    def forward(self, input_ids, attention_mask):
        logits = super().forward(input_ids, attention_mask)
        if self.forwards == 5:
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits


def test_a_bad_gradient_is_seen_although_the_loss_is_fine():
    """One infinite gradient stops the run before it reaches the weights."""
    learner = BadGradient()
    with pytest.raises(TrainingError, match="The gradient norm became nan at step 5"):
        run(settings(), learner=learner, evaluated=0)
    assert all(bool(tensor.isfinite().all()) for tensor in learner.state().values())


def test_a_device_that_must_not_wait_is_checked_later():
    """Off the CPU the ledger fetches losses together, and names the first bad step."""
    ledger = Ledger(torch.device("meta"))
    for step, loss in enumerate([1.0, 2.0, float("nan"), float("nan")], start=1):
        ledger.enter(step, step / 4, 0.1, 10, torch.tensor(loss), torch.tensor(1.0))
    assert not ledger.due
    with pytest.raises(DivergedError, match="nan") as caught:
        ledger.settle(1.0)
    assert caught.value.step == 3 and caught.value.rate == 0.1


def test_an_overflow_of_fp16_is_no_error_until_the_scale_is_gone():
    """A scaled step may overflow and is left out; a scale that has shrunk away ends the run."""
    ledger = Ledger(torch.device("cpu"), scaled=True)
    ledger.enter(1, 0.1, 0.1, 10, torch.tensor(1.0), torch.tensor(float("inf")))
    ledger.skipped(32768.0, 1, 0.1)
    assert ledger.settle(1.0)[0]["loss"] == 1.0
    with pytest.raises(DivergedError, match="overflow fp16"):
        ledger.skipped(2.0**-11, 28, 0.1)


def test_a_best_adapter_gets_its_methods_final_form():
    """A method that shapes its layers to the end has shaped the best adapter too, and its figures are measured anew."""
    learner = FakeLearner(method=Shaping(weight=0.0))
    _, report = run(settings(epochs=6, learning_rate=0.3, lr_scheduler="constant"), learner=learner)
    assert bool((learner.adapter.weight[:, 1:] == 0).all()), "final form"
    assert measured(learner) == report.best["accuracy"]
    assert any("final form" in notice for notice in report.notices)


def test_an_early_stop_also_ends_in_final_form():
    """Patience may end the run before the method has finished shaping; it gets its last word."""
    learner = FakeLearner(method=Shaping(weight=0.0))
    _, report = run(settings(epochs=9, learning_rate=1e-9, patience=1), learner=learner)
    assert report.stopped_early and bool((learner.adapter.weight[:, 1:] == 0).all())
    assert learner.adapter.seen[-1] == (54, 54, False)
    assert measured(learner) == report.best["accuracy"]


@pytest.mark.parametrize("undefined", [math.nan, math.inf])
def test_a_chosen_figure_that_is_not_finite_is_told_once(undefined):
    """It never is the best, and a notice names it; the run ends with the best of the others."""
    seen = []

    def odd(y_true, y_pred):
        seen.append(0)
        return undefined if len(seen) > 2 else 0.5  # the first call is the rehearsal

    _, report = run(settings(epochs=4, metrics=(odd,), metric="odd", greater_is_better=True))
    assert report.best["odd"] == 0.5 and report.best_step == 6
    assert [notice for notice in report.notices if "'odd' was not finite" in notice] == report.notices


def test_a_skipped_last_step_still_gets_the_final_form(monkeypatch):
    """Where fp16 leaves the last step out, the method is called without gradients, and the last figures are its own."""
    monkeypatch.setattr(AcceleratedOptimizer, "step_was_skipped", property(lambda self: True))
    monkeypatch.setattr(Ledger, "skipped", lambda self, scale, step, rate: None)
    enter, scaler = Run.enter, SimpleNamespace(get_scale=lambda: 1.0, scale=lambda loss: loss)

    def scaled(self, *entry):
        self.accelerator.scaler = scaler
        enter(self, *entry)

    monkeypatch.setattr(Run, "enter", scaled)
    learner = FakeLearner(method=Shaping(weight=0.0))
    _, report = run(settings(keep_best=False), learner=learner)
    assert learner.adapter.seen == [(step, 12, False) for step in range(1, 13)]
    assert bool((learner.adapter.weight[:, 1:] == 0).all())
    assert measured(learner) == accuracies(report)[-1]
