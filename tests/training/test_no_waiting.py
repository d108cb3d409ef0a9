"""Between two looks at the losses nothing makes the host wait for the device."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from petune import TrainConfig
from petune.methods.adalora import AdaLoRA
from petune.methods.base import Method
from petune.methods.bottleneck import Bottleneck
from petune.methods.lora import LoRA
from petune.methods.prefix import Prefix
from petune.tasks.causal_lm import CausalLM
from petune.training import loop
from petune.training.ledger import Ledger
from tests import tiny
from tests.tuners import fresh

FETCHING = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal", "aten.masked_select")
"""Operators that need a value on the host; on a GPU each waits for all work before it."""


class Fetches(TorchDispatchMode):
    """Counts them, by the file in petune or torch that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function).startswith(FETCHING):
            where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-1]]
            self.found[next((w for w in reversed(where) if "/torch/" not in w), where[-1])] += 1
        return function(*args, **(kwargs or {}))


METHODS = [LoRA(dropout=0.1), AdaLoRA(rank=2, init_rank=4), Bottleneck(dropout=0.1), Prefix(length=3)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_no_value_is_fetched_in_a_step(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the forward to the method's own touch petune fetches no value, where losses are not looked at in each step,
    as on a GPU. What transformers asks of its masks is its own."""
    as_on_a_gpu = Ledger.__init__

    def begin(ledger: Ledger, *args: Any, **kwargs: Any) -> None:
        as_on_a_gpu(ledger, *args, **kwargs)
        ledger._at_once = False

    monkeypatch.setattr(Ledger, "__init__", begin)
    seen = Fetches()
    for name in ("forward_and_backward", "take_step"):
        whole = getattr(loop, name)

        def counted(*args: Any, _whole: Any = whole, **kwargs: Any) -> Any:
            with seen:
                return _whole(*args, **kwargs)

        monkeypatch.setattr(loop, name, counted)
    tuner = fresh(method=method)
    rows = tiny.rows(32)
    tuner.fit(rows, config=TrainConfig(epochs=2, batch_size=8, progress="off", cache_trunk=False, padding_free=False))
    assert sum(seen.found.values()) <= 8
    assert not [where for where in seen.found if "/transformers/" not in where]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_writer_on_a_device(smoothing: float) -> None:
    """Away from the host the supervised places are not looked for, and the loss is the same."""
    task, labels = CausalLM(), torch.tensor([[-100, 7, 8, -100], [5, -100, 6, 1]])
    logits = torch.randn(2, 4, 9)
    wanted = task.loss(logits, labels, label_smoothing=smoothing)
    all_places = task._foretold(labels).flatten()
    found = task.loss(logits.flatten(0, 1), all_places, label_smoothing=smoothing)
    assert torch.allclose(found, wanted)
    with Fetches() as seen:
        there = task.loss(logits.to("meta"), labels.to("meta"), label_smoothing=smoothing)
    assert there.device.type == "meta"
    assert not seen.found
