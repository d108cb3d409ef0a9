"""What a run leaves out changes nothing that it learns: logits where no loss falls, and Python between operations."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from petune import Job, TrainConfig, fit_many
from petune.errors import ConfigError
from petune.model.learner import Learner
from tests import tiny
from tests.conformance import subjects
from tests.training.crews import quick, still
from tests.training.test_trunk_cache import losses, tuner


def words_to_vocabulary(run: Any) -> list[int]:
    """How many places each product with the vocabulary was made for, in training."""
    plain, seen = nn.functional.linear, []

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
        if weight.shape[0] == tiny.VOCABULARY and torch.is_grad_enabled():
            seen.append(x.numel() // x.shape[-1])
        return plain(x, weight, bias)

    with mock.patch.object(nn.functional, "linear", counted):
        run()
    return seen


@pytest.mark.parametrize(
    ("family", "kind"), [("gpt2", "causal"), ("llama", "causal"), ("t5", "seq2seq"), ("bart", "seq2seq")]
)
def test_logits_where_a_loss_falls(family: str, kind: str) -> None:
    """A language model's fit makes logits of the supervised pieces alone, and its losses are those of all of them."""
    rows = subjects.rows(kind, 12)
    task = subjects.blank_task(kind).learn(subjects.read(rows))
    examples = task.encode(subjects.read(rows), subjects.tokenizer(family), longest=64, labelled=True).examples
    runs: list[list[float]] = []

    def run() -> None:
        runs.append(losses(tuner(still(family), subjects.method("lora"), kind).fit(rows, None, quick(epochs=1))))

    seen = words_to_vocabulary(run)
    assert sum(seen) == sum(task.count(example) for example in examples)
    with mock.patch.object(Learner, "can_focus", False):
        whole = words_to_vocabulary(run)
    assert sum(whole) > sum(seen)
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


def test_joint_fits_make_all_logits() -> None:
    """Two language models that share their forwards learn what they learn alone."""
    rows, method = subjects.rows("causal", 12), subjects.method("lora")
    alone = [losses(tuner(still("gpt2"), method, "causal").fit(rows, None, quick(seed=n))) for n in (0, 1)]
    model = still("gpt2")
    made = [tuner(model, method, "causal") for _ in (0, 1)]
    fit_many([Job(it, rows, None, quick(seed=n)) for n, it in enumerate(made)])
    for it, before in zip(made, alone, strict=True):
        assert losses(it) == pytest.approx(before, rel=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", ["lora", "bottleneck"])
def test_compiled_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `compile=True` every block that learns runs as one graph, with the losses of the uncompiled fit."""
    torch._dynamo.reset()
    plain, graphs = Learner.compiled, []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(Learner, "compiled", lambda self, **options: plain(self, backend=counted, **options))
    rows, runs = tiny.rows(12), []
    for compiled in (False, True):
        config = quick(epochs=1, compile=compiled, padding_free=False)
        runs.append(losses(tuner(still("bert"), subjects.method(name)).fit(rows, None, config)))
    assert graphs
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)


def test_what_is_not_compiled_is_refused() -> None:
    """A prefix, a head alone, a joint fit, checkpointing and packed rows are refused beside `compile=True`."""
    for name in ("prefix", "head", "full"):
        with pytest.raises(ConfigError, match=f"compile=True cannot be kept with the method '{name}'"):
            tuner(still("bert"), subjects.method(name)).fit(tiny.rows(8), None, quick(compile=True))
    for knob in ("gradient_checkpointing", "padding_free"):
        with pytest.raises(ConfigError, match=f"compile=True and {knob}=True"):
            TrainConfig(compile=True, **{knob: True})
    model = still("bert")
    jobs = [Job(tuner(model), tiny.rows(8), None, quick(compile=True)) for _ in (0, 1)]
    with pytest.raises(ConfigError, match="joint fit"):
        fit_many(jobs)
