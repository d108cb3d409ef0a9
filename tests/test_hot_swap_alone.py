"""A method from peft replaces modules, so it is alone: what is refused beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import peft
import pytest
import torch

from petune import AdaptedModel
from petune.errors import AdapterError, RouteError
from petune.methods.base import as_method
from petune.model.adapter import Adapter
from petune.storage import adapter_file
from petune.storage.packing import fingerprint, pack
from tests import tiny
from tests.conformance.subjects import differ, open_backbone
from tests.versions import INPUTS, TEXTS, WAIT, said_by, serving, version


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture
def alone() -> AdaptedModel:
    """A model whose one resident is peft's IA3."""
    backbone = open_backbone("bert")
    fingerprint(backbone)
    recipe = as_method(peft.IA3Config(target_modules=["key", "value"], feedforward_modules=[]))
    adapter = Adapter.make(backbone, "made", recipe, version(0).task)
    with torch.no_grad():
        for parameter in adapter.body.module().parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    return model.add("ia3", adapter)


@torch.no_grad()
def test_a_peft_method_serves_whole_batches_only(alone):
    """Its modules act on every row: rows of others, rows without an adapter, and the bare backbone are refused, as
    are routes per token; a list that names it for all rows is not."""
    whole = alone(**INPUTS, route="ia3").logits
    listed = alone(**INPUTS, route=["ia3"] * 5).logits
    assert differ(torch.stack(listed), whole) == 0
    for route in (None, ["ia3", None, "ia3", "ia3", "ia3"], [None] * 5):
        with pytest.raises(RouteError, match="act on every row"):
            alone(**INPUTS, route=route)
        with pytest.raises(RouteError, match="act on every row"), alone.routed(route):
            pass
    with pytest.raises(RouteError, match="by token"):
        alone(**INPUTS, route=[["ia3"] * INPUTS["input_ids"].shape[1]] * 5)
    with pytest.raises(RouteError, match="other"):
        alone(**INPUTS, route=["ia3", "other", "ia3", "ia3", "ia3"])
    assert differ(alone(**INPUTS, route="ia3").logits, whole) == 0


@torch.no_grad()
def test_a_peft_method_stays_alone(alone):
    """Nothing is added beside it or put in its place in one step, and it not beside others; what is there answers on.
    Another model on the same backbone object refuses its calls meanwhile."""
    whole = alone(**INPUTS, route="ia3").logits
    shared = AdaptedModel(alone.backbone.model, tokenizer=tiny.tokenizer("bert"))
    for name, work in (("new", alone.add), ("ia3", alone.replace), ("new", shared.add)):
        with pytest.raises(AdapterError, match="peft"):
            work(name, version(0))
    with pytest.raises(RouteError, match="act on every row"):
        shared(**INPUTS, route=None)
    assert differ(alone(**INPUTS, route="ia3").logits, whole) == 0
    ia3 = alone._bank.find("ia3")
    model = serving(live=0)
    with pytest.raises(AdapterError, match="beside live"):
        model.add("ia3", ia3)
    assert said_by(model.predict_proba(TEXTS, adapters="live"), [0, 1, 2, 3, 4]) == 0


@torch.no_grad()
@pytest.mark.parametrize("saved", [False, True], ids=["living", "folder"])
def test_a_peft_method_and_another_do_not_swap_places(alone, saved, tmp_path):
    """In neither direction, nor two of peft's: refused before anything is built, with the two steps that do it."""
    ia3, plain = alone._bank.find("ia3"), version(0)
    if saved:
        ia3, plain = (adapter_file.write(tmp_path / name, pack(it, None)) for name, it in (("i", ia3), ("p", plain)))
    before, whole = [*alone.backbone.model.named_modules()], alone(**INPUTS, route="ia3").logits
    for other in (plain, ia3):
        with pytest.raises(AdapterError, match="cannot be replaced in one step") as caught:
            alone.replace("ia3", other)
        assert caught.value.fix == "Call remove('ia3'), then add('ia3', ...)."
    assert [*alone.backbone.model.named_modules()] == before
    assert differ(alone(**INPUTS, route="ia3").logits, whole) == 0
    model = serving(live=0)
    before = [*model.backbone.model.named_modules()]
    with pytest.raises(AdapterError, match="'live' cannot be replaced in one step"):
        model.replace("live", ia3)
    assert [*model.backbone.model.named_modules()] == before
    assert said_by(model.predict_proba(TEXTS, adapters="live"), [0, 1, 2, 3, 4]) == 0
    assert differ(model.remove("live").add("live", ia3)(**INPUTS, route="live").logits, whole) <= 1e-6


@torch.no_grad()
def test_a_peft_method_leaves_while_no_call_runs(alone, pool):
    """Its modules are taken out when the running call is over; a route that was chosen before is an error then."""
    whole, bare = alone(**INPUTS, route="ia3").logits, tiny.backbone("bert")(**INPUTS).last_hidden_state
    inside, go = threading.Event(), threading.Event()

    def stop(*_: Any) -> None:
        inside.set()
        assert go.wait(WAIT)

    @torch.no_grad()
    def call() -> torch.Tensor:
        logits: torch.Tensor = alone(**INPUTS, route="ia3").logits
        return logits

    hook = alone.backbone.model.encoder.layer[0].attention.register_forward_pre_hook(stop)
    answer = pool.submit(call)
    assert inside.wait(WAIT)
    hook.remove()
    with alone.routed("ia3"):
        removed = pool.submit(alone.remove, "ia3")
        with pytest.raises(TimeoutError):
            removed.result(0.05)
        go.set()
        assert differ(answer.result(WAIT), whole) == 0
        removed.result(WAIT)
        with pytest.raises(RouteError, match="was removed"):
            alone(**INPUTS)
    assert differ(alone(**INPUTS, route=None).last_hidden_state, bare) == 0
    assert said_by(alone.add("live", version(0)).predict_proba(TEXTS, "live"), [0, 1, 2, 3, 4]) == 0
