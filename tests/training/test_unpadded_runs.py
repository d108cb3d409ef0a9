"""Whole runs: without padding they learn what they learn with it; a budget of tokens stops and goes on like any run."""

from __future__ import annotations

from typing import Any

import pytest

from petune import Job, LoRA, TrainConfig, Tuner, fit_many
from petune.errors import ConfigError
from petune.model import unpadding
from petune.model.packed import Layout
from petune.training.batches import Course
from petune.training.loop import train
from tests import tiny
from tests.training.crews import apart, losses, quick, same, still, tuner
from tests.training.fakes import FakeLearner, FakeTask, examples, settings

ROWS = tiny.rows(40)


def fitted(method: Any, task: str = "sequence-classification", rows: Any = ROWS, **knobs: Any) -> Tuner:
    """A tuner on a backbone without dropout, fitted."""
    config = quick(**{"cache_trunk": False, "group_by_length": False, "optimizer": "sgd", **knobs})
    return tuner(still("bert"), "mine", method, task).fit(rows, config=config)


@pytest.mark.parametrize("knobs", [{}, {"gradient_checkpointing": True}, {"mixed_precision": "bf16"}])
@pytest.mark.parametrize("task", ["sequence-classification", "token-classification"])
def test_the_loss_of_each_step_is_the_same(task: str, knobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps with and without padding have the same losses."""
    rows = ROWS if task.startswith("sequence") else tiny.tag_rows(40)
    packed, pack = [], Layout.pack
    monkeypatch.setattr(Layout, "pack", lambda layout, states: packed.append(layout.shape) or pack(layout, states))
    with_it = fitted(LoRA(rank=4), task, rows, padding_free=False, **knobs)
    assert not packed
    without = fitted(LoRA(rank=4), task, rows, padding_free=True, **knobs)
    assert len(packed) >= 15  # of 20 steps, a few have rows of one length
    assert len(losses(without)) == 20
    assert apart(without, with_it) < (1e-5 if "mixed_precision" not in knobs else 0.05)


def test_auto_is_what_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" is True where each batch pads enough, and False where none does, to the bit."""
    monkeypatch.setattr(unpadding, "WORTH", 1e-9)
    assert same(fitted(LoRA(rank=4), padding_free="auto"), fitted(LoRA(rank=4), padding_free=True))
    monkeypatch.setattr(unpadding, "WORTH", 1.0)
    assert same(fitted(LoRA(rank=4), padding_free="auto"), fitted(LoRA(rank=4), padding_free=False))


def test_a_cached_trunk_and_no_padding_go_together() -> None:
    """With the top block adapted, a cached trunk hands in its states, and the live block leaves padding out."""
    plain = fitted(LoRA(rank=4, top=1), padding_free=False)
    both = fitted(LoRA(rank=4, top=1), padding_free=True, cache_trunk=True)
    assert apart(both, plain) < 1e-5


def test_joint_fits_pad() -> None:
    """A joint fit keeps to padding, and says so where it was told not to."""
    model = still("bert")
    jobs = [Job(tuner(model, name, LoRA(rank=4)), ROWS, None, quick(padding_free=True)) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="joint fit"):
        fit_many(jobs)


def budgeted(**knobs: Any) -> TrainConfig:
    """Forwards of at most 24 positions and 8 rows."""
    return settings(**{"epochs": 4, "batch_size": 8, "max_tokens": 24, **knobs})


@pytest.mark.parametrize(("accumulation", "grouped"), [(1, False), (3, True)])
def test_epochs_of_a_budget_may_differ_in_length(accumulation: int, grouped: bool) -> None:
    """Each epoch sees each row once and ends where its own last step is; the steps add up."""
    made = examples(61)
    config = budgeted(gradient_accumulation_steps=accumulation, group_by_length=grouped)
    course = Course(FakeTask(), made, config)
    steps = list(course.after(0))
    assert len(steps) == course.total
    sizes = [course._end(epoch) - course.starts[epoch] for epoch in range(4)]
    assert grouped or len(set(sizes)) > 1  # else nothing is shown here
    for epoch in range(4):
        own = [step for step in steps if step.epoch == epoch]
        assert [step.ends_epoch for step in own] == [False] * (len(own) - 1) + [True]
        rows = [row for step in own for micro in step.micro for rank in micro for row in rank]
        assert sorted(rows) == list(range(61))
        assert course.epochs_at(course.starts[epoch] + len(own)) == epoch + 1
    for done in range(course.total):
        assert list(course.after(done)) == steps[done:]


def test_a_budget_holds_in_every_forward_and_evaluation() -> None:
    """No forward has more positions than the budget, not even one of the evaluation."""
    seen: list[int] = []

    class Watching(FakeLearner):
        def forward(self, input_ids, attention_mask):
            seen.append(input_ids.numel())
            return super().forward(input_ids, attention_mask)

    report = train(Watching(), FakeTask(), None, examples(61), examples(20, seed=1), budgeted())
    assert max(seen) <= 24
    assert report.steps == Course(FakeTask(), examples(61), budgeted()).total
    assert [row["epoch"] for row in report.history if "eval/loss" in row or "eval_loss" in row] == [1, 2, 3, 4]


@pytest.mark.parametrize("at", [1, 12, 20])
def test_a_stopped_run_with_a_budget_goes_on(tmp_path: Any, at: int) -> None:
    """Resumed anywhere, it ends with the bits of a run that was never stopped."""

    class Stop(BaseException):
        pass

    class StopAt:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

        def on_step(self, row: Any) -> None:
            if row["step"] == at + 1:
                raise Stop

    whole, paused, resumed = FakeLearner(dropout=0.1), FakeLearner(dropout=0.1), FakeLearner(dropout=0.1)
    made, config = examples(61), budgeted(output_dir=tmp_path, save_every=1)
    train(whole, FakeTask(), None, made, None, budgeted())
    with pytest.raises(Stop):
        train(paused, FakeTask(), None, made, None, config, callbacks=[StopAt()])
    train(resumed, FakeTask(), None, made, None, config, resume="auto")
    assert all((one == other).all() for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))
