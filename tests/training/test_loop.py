"""The loop: it learns, adds up batches rightly, and is the same run for the same seed."""

from __future__ import annotations

import copy

import pytest
import torch

from petune.config import TrainConfig
from petune.errors import ConfigError, TrainingError, UnknownNameError
from petune.training.loop import train
from tests.training.fakes import FakeLearner, FakeTask, Shaping, examples, settings


def fit(config: TrainConfig, *, rows: int = 40, evaluated: int = 0, learner: FakeLearner | None = None, **more):
    """A learner after a run, and the report."""
    learner = learner or FakeLearner()
    held_out = examples(evaluated, seed=9) if evaluated else None
    return learner, train(learner, FakeTask(), None, examples(rows), held_out, config, **more)


def same(left: FakeLearner, right: FakeLearner) -> bool:
    """Whether two learners hold the same bits."""
    return all(torch.equal(left.state()[name], tensor) for name, tensor in right.state().items())


def losses(report) -> list[float]:
    """One per optimizer step."""
    return [row["loss"] for row in report.history if "loss" in row]


def test_the_loss_falls():
    """A few epochs teach the learner what the rows say."""
    _, report = fit(settings(epochs=8, learning_rate=0.05), rows=60, evaluated=30)
    assert losses(report)[-1] < 0.6 * losses(report)[0]
    assert report.best["accuracy"] > 0.7
    assert report.steps == 8 * 15 == len(losses(report))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_two_times_eight_is_one_times_sixteen(optimizer):
    """Accumulating two micro-batches of 8 gives the weights and losses of one of 16, a last short step included."""
    plain = {"group_by_length": False, "optimizer": optimizer, "epochs": 3}
    twice, first = fit(settings(batch_size=8, gradient_accumulation_steps=2, **plain), rows=42)
    once, second = fit(settings(batch_size=16, **plain), rows=42)
    assert losses(first) == pytest.approx(losses(second), rel=1e-6)
    for name, tensor in once.state().items():
        torch.testing.assert_close(twice.state()[name], tensor, rtol=0, atol=1e-6 if optimizer == "sgd" else 1e-5)


def test_the_same_seed_gives_the_same_bits():
    """Weights and losses are equal for one seed, whatever was drawn before, and differ for another."""
    config = settings(batch_size=4, gradient_accumulation_steps=2)
    first, report = fit(config, learner=FakeLearner(dropout=0.3))
    torch.rand(17)
    again, repeated = fit(config, learner=FakeLearner(dropout=0.3))
    other, _ = fit(settings(seed=1, gradient_accumulation_steps=2), learner=FakeLearner(dropout=0.3))
    assert same(first, again) and losses(report) == losses(repeated)
    assert not same(first, other)


def test_the_learner_comes_back_bare():
    """No forward of Accelerate's, no gradient and no changed mode is left behind, so that a copy is independent."""
    learner = FakeLearner().eval()
    fit(settings(mixed_precision="bf16", epochs=1), learner=learner, evaluated=8)
    assert not {"forward", "_original_forward", "_is_accelerate_prepared"} & set(vars(learner))
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert not learner.training
    twin = copy.deepcopy(learner)
    with torch.no_grad():
        twin.classifier.bias.add_(1)
    assert not torch.equal(twin.classifier.bias, learner.classifier.bias)


def test_precisions_may_differ_between_fits():
    """A bf16 run between two fp32 runs changes neither of them, although Accelerate keeps its state per process."""
    before, _ = fit(settings(epochs=1))
    half, report = fit(settings(epochs=1, mixed_precision="bf16"))
    after, _ = fit(settings(epochs=1))
    assert same(before, after) and not same(before, half)
    assert half.classifier.weight.dtype == torch.float32 and losses(report)[0] < 5


def test_fp16_needs_an_accelerator():
    """fp16 on a CPU is refused before anything is computed."""
    with pytest.raises(ConfigError, match="fp16"):
        fit(settings(mixed_precision="fp16"))


def test_an_environment_variable_does_not_scale_the_loss(monkeypatch):
    """Accelerate's own accumulation setting has no say: the loop divides by itself."""
    plain, _ = fit(settings(epochs=1))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    scaled, _ = fit(settings(epochs=1))
    assert same(plain, scaled)


def test_the_method_is_called_after_each_step_while_gradients_are_there():
    """`after_step` sees every step, the total and the gradients; `penalty` adds to the gradients once per step."""
    learner, _ = fit(settings(epochs=2, gradient_accumulation_steps=2), learner=FakeLearner(method=Shaping()))
    assert learner.adapter.seen == [(step, 10, True) for step in range(1, 11)]
    once, _ = fit(settings(epochs=1, batch_size=8, optimizer="sgd", group_by_length=False), learner=shaped(0.5))
    twice, _ = fit(
        settings(epochs=1, batch_size=4, gradient_accumulation_steps=2, optimizer="sgd", group_by_length=False),
        learner=shaped(0.5),
    )
    torch.testing.assert_close(once.adapter.weight, twice.adapter.weight, rtol=0, atol=1e-6)
    assert not torch.allclose(
        once.classifier.weight, fit(settings(epochs=1, batch_size=8, optimizer="sgd"))[0].classifier.weight
    )


def shaped(weight: float) -> FakeLearner:
    """A learner with a penalty."""
    return FakeLearner(method=Shaping(weight=weight))


def test_biases_and_norms_are_not_decayed():
    """A huge weight decay at a tiny rate shrinks the matrices and nothing else."""
    learner, start = FakeLearner(), FakeLearner()
    fit(settings(epochs=1, learning_rate=1e-7, weight_decay=1e5, lr_scheduler="constant"), learner=learner)
    assert learner.classifier.weight.norm() < 0.95 * start.classifier.weight.norm()
    torch.testing.assert_close(learner.norm.weight, start.norm.weight, rtol=0, atol=1e-4)
    torch.testing.assert_close(learner.classifier.bias, start.classifier.bias, rtol=0, atol=1e-4)


def test_clipping_bounds_the_step():
    """With SGD at rate 1 no step is longer than the largest norm; 0 turns clipping off."""
    start = FakeLearner().state()

    def moved(norm: float) -> float:
        learner, _ = fit(
            settings(epochs=1, batch_size=40, optimizer="sgd", learning_rate=1.0, max_grad_norm=norm, warmup_ratio=0,
                     weight_decay=0)
        )  # fmt: skip
        state = learner.state()
        return sum(float((state[name] - start[name]).float().pow(2).sum()) for name in start) ** 0.5

    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(0) == pytest.approx(moved(1e9))
    assert moved(0) > 0.02


def test_label_smoothing_reaches_the_task():
    """Smoothing changes the training loss."""
    assert losses(fit(settings(epochs=1))[1])[0] < losses(fit(settings(epochs=1, label_smoothing=0.3))[1])[0] + 0.5
    assert losses(fit(settings(epochs=1))[1]) != losses(fit(settings(epochs=1, label_smoothing=0.3))[1])


def test_what_needs_eval_data_is_refused_without():
    """`patience` and `metric` look at evaluations, so without eval data they are errors and not ignored."""
    with pytest.raises(ConfigError, match="patience=2 was given without eval data"):
        fit(settings(patience=2))
    with pytest.raises(ConfigError, match="metric="):
        fit(settings(metric="accuracy"))


def test_an_unknown_figure_is_refused_before_the_first_step():
    """A misspelt metric is told with the near name, and nothing was trained."""
    learner = FakeLearner()
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        fit(settings(metric="acuracy"), evaluated=8, learner=learner)
    assert learner.forwards == 0


def test_no_rows_are_refused():
    """Empty training or eval data are errors."""
    with pytest.raises(TrainingError, match="no rows to train on"):
        train(FakeLearner(), FakeTask(), None, [], None, settings())
    with pytest.raises(TrainingError, match="no rows to evaluate"):
        train(FakeLearner(), FakeTask(), None, examples(4), [], settings())


def test_nothing_trainable_is_refused():
    """A learner without parameters to train is an error."""
    learner = FakeLearner()
    learner.requires_grad_(False)
    with pytest.raises(TrainingError, match="Nothing is trainable"):
        fit(settings(), learner=learner)
