"""The plan's timings: taken from steps of the run itself, told on the plan, and without a trace afterwards."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from petune import LoRA, TrainConfig, Tuner
from petune.training import timing
from petune.training.plan import Plan
from petune.training.timing import Timing
from tests import tiny

ROWS = [{**row, "text": row["text"] * (1 + number % 3)} for number, row in enumerate(tiny.rows(24))]
TWICE = TrainConfig(epochs=2, batch_size=4, progress="off")


def tuner(method: object, seed: int = 0) -> Tuner:
    """On a backbone of its own."""
    return Tuner(tiny.backbone("bert", seed), method=method, tokenizer=tiny.tokenizer("bert"))


@pytest.mark.parametrize("method", ["lora", "adalora", "bottleneck", "prefix", "head", "full"])
def test_a_plan_with_rows_tells_seconds(method):
    """Every method is timed, on the plan object itself."""
    plan = tuner(method).plan(ROWS, TWICE)
    assert plan.seconds_per_epoch > 0
    assert plan.seconds == pytest.approx(2 * plan.seconds_per_epoch)
    assert "epochs" in repr(plan) and "in all" in str(plan)


def test_nothing_is_timed_without_rows_or_when_not_asked():
    """A look costs no step."""
    for plan in (tuner("lora").plan(), tuner("lora").plan(ROWS, TWICE, timed=False)):
        assert plan.seconds is plan.seconds_per_epoch is None
        assert "; about " not in str(plan)


@pytest.mark.parametrize("method", [LoRA(top=1), "full"])
def test_timing_leaves_no_trace(method):
    """Weights, flags, hooks, random numbers and a fitted adapter's answers are as before; the fit is the same fit."""
    plain, planned = tuner(method), tuner(method)
    before = {name: tensor.clone() for name, tensor in planned.backbone.model.state_dict().items()}
    flags = [(p.requires_grad, m.training) for m in planned.backbone.model.modules() for p in m.parameters(False)]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    planned.plan(ROWS, TWICE)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    after = planned.backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert flags == [
        (p.requires_grad, m.training) for m in planned.backbone.model.modules() for p in m.parameters(False)
    ]
    assert not any(module._forward_hooks for module in planned.backbone.model.modules())
    assert not any("forward" in module.__dict__ for module in planned.backbone.model.modules())
    losses = [[row["loss"] for row in each.fit(ROWS, config=TWICE).report.history] for each in (plain, planned)]
    assert losses[0] == losses[1]
    said = planned.predict_proba(["a great film"])
    planned.plan(ROWS, TWICE)
    assert np.array_equal(planned.predict_proba(["a great film"]), said)


def test_the_cache_of_the_trunk_is_told():
    """Its bytes are those of the states; it is 0 where nothing is kept, and later epochs are then no shorter."""
    lengths = [len(ids) for ids in tiny.tokenizer("bert")([row["text"] for row in ROWS])["input_ids"]]
    kept = tuner(LoRA(top=1)).plan(ROWS, TWICE)
    assert kept.cache_megabytes == pytest.approx(sum(lengths) * tiny.WIDTH * 4 / 2**20)
    assert "kept of the trunk" in repr(kept)
    assert kept.seconds_per_epoch < kept.seconds_first_epoch
    for method, knobs in ((LoRA(top=1), {"cache_trunk": False}), (LoRA(top=1), {"epochs": 1}), (LoRA(), {})):
        plan = tuner(method).plan(ROWS, TrainConfig(**{"epochs": 2, "batch_size": 4, **knobs}))
        assert plan.cache_megabytes == 0
        assert plan.seconds_per_epoch == pytest.approx(plan.seconds_first_epoch)


def test_an_epoch_is_the_sum_of_its_steps(monkeypatch):
    """Steps between the timed ones are read off the line between them; the first epoch alone runs the trunk."""

    def fake(learner, task, tokenizer, examples, config, step):
        positions = timing.size_of(step, examples)
        asked.append(positions)
        rates = [{"tokens_per_second": 1.0}] + [{"tokens_per_second": 10.0 / positions}] * timing.TIMED
        return type("Report", (), {"history": rates, "real_tokens": 30, "steps": 3, "peak_memory_megabytes": 7.0})

    asked: list[int] = []
    monkeypatch.setattr(timing, "_report", fake)
    monkeypatch.setattr(timing, "_trunk", lambda *given: 0.25 * timing.size_of(given[-1], given[-3]))
    seen = tuner(LoRA(top=1)).plan(ROWS, TWICE)
    assert len(asked) == 3 and asked == sorted(asked, reverse=True)
    assert seen.seconds_per_epoch == pytest.approx(seen.seconds_first_epoch * (1 + 0.75) / 2)
    assert seen.seconds_first_epoch >= sum(asked)


def test_rows_of_one_length_are_timed_once():
    """Three batches of one size are one batch."""
    assert timing.spread([4, 4, 4], size=int) == [4]


def test_a_long_run_is_told_in_minutes_and_hours():
    """The mean over the epochs counts the first one; nobody wants to read 8,000 seconds."""
    assert Timing(5.0, 1.0).mean(4) == 2.0
    plan = Plan(("a",), 10, 2, 90, 8, 16, 4, 1.0, epochs=4, seconds_per_epoch=2000.0)
    assert "about 2.2 h in all" in str(plan)
    assert "33.3 min" in repr(plan) and "<table>" in plan._repr_html_()
