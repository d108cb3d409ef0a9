"""Where the head reads the first position alone, the last block computes no other: nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from petune import TrainConfig
from petune.model.learner import Learner
from petune.model.trimming import listening, might_trim, trims_alike
from tests import tiny
from tests.conformance import subjects
from tests.model.test_trunk import WIDE, flops, made
from tests.training.crews import quick, still
from tests.training.test_trunk_cache import losses, tuner

FAMILIES = ("bert", "roberta", "xlm-roberta", "electra")
METHODS = ("lora", "adalora", "bottleneck", "prefix")


def gradients(learner: Learner, inputs: dict[str, Any], trims: bool, **how: Any) -> dict[str, torch.Tensor]:
    """The gradient of every trained parameter of one batch."""
    learner.zero_grad()
    with learner.fitting(backbone_dropout=False, **how), listening(learner):
        learner.mode(False)
        learner.trims = trims and trims_alike(learner, inputs)
        assert learner.trims == trims
        learner.mode(True)
        torch.manual_seed(0)
        learner(**inputs).square().sum().backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_the_same_gradients(family: str, name: str) -> None:
    """Every trained parameter has the gradient that it has in the whole block, with checkpointing and without padding
    as well."""
    changes = {"classifier_dropout": 0.0, "dropout": 0.0}
    learner = made(family, how=subjects.method(name), **changes)
    inputs = subjects.batch(family, "single")
    assert might_trim(learner)
    whole = gradients(learner, inputs, trims=False)
    for how in ({}, {"gradient_checkpointing": True}, {"padding_free": "auto"}):
        for path, gradient in gradients(learner, inputs, trims=True, **how).items():
            far = (gradient - whole[path]).abs().max()
            assert far <= 1e-4 * whole[path].abs().max() + 1e-6, (how, path)


@pytest.mark.parametrize(
    ("family", "kind"), [("bert", "tokens"), ("gpt2", "single"), ("distilbert", "single"), ("t5", "seq2seq")]
)
def test_only_where_nothing_else_is_read(family: str, kind: str) -> None:
    """Tags read every position, and blocks of another build are left alone."""
    learner = made(family, kind)
    if might_trim(learner):
        with listening(learner):
            assert not trims_alike(learner, subjects.batch(family, kind))
    assert not learner.trims


def test_it_costs_less() -> None:
    """With LoRA in the top block of 12 and its trunk cached, a step costs less than half of the whole block's."""
    whole = flops(made("bert", how=subjects.method("lora", top=1), **WIDE), cached=True)[0]
    learner = made("bert", how=subjects.method("lora", top=1), **WIDE)
    with listening(learner):
        learner.trims = True
        assert flops(learner, cached=True)[0] < 0.5 * whole


@pytest.mark.parametrize("kind", ["single", "multi", "regression", "tokens"])
def test_the_same_losses(kind: str) -> None:
    """A fit has the losses of one that computes the whole block, with the trunk cached and evaluations on the way."""
    rows = subjects.rows(kind, 26)
    runs = [
        losses(tuner(still("bert"), subjects.method("lora"), kind).fit(rows, rows[:6], quick(trim_last_block=trims)))
        for trims in (False, True)
    ]
    assert runs[1] == pytest.approx(runs[0], rel=1e-4, abs=1e-6)


def test_after_the_fit_the_block_is_whole() -> None:
    """A fitted tuner's backbone answers at every position, and no trace of the fit is left on it."""
    model = still("bert")
    tuner(model, subjects.method("lora")).fit(tiny.rows(8), None, TrainConfig(epochs=1, progress="off"))
    inputs = subjects.batch("bert", "single")
    assert model(**inputs).last_hidden_state.shape[:2] == inputs["input_ids"].shape
    assert not any("forward" in module.__dict__ for module in model.modules())
