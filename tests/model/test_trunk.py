"""The trunk is frozen: it is passed over exactly, left untouched, and costs no backward pass."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.learner import Learner
from petune.model.trunk import passing
from tests import tiny
from tests.conformance import subjects

PASSED = [(family, "single", 1) for family in tiny.FAMILIES if family != "albert"]
PASSED += [("t5", "seq2seq", 1), ("t5", "seq2seq", 2), ("t5", "seq2seq", 3), ("bart", "seq2seq", 1)]
PASSED += [("bart", "seq2seq", 3), ("gpt2", "causal", 1), ("llama", "causal", 1), ("bert", "tokens", 1)]


def made(family: str, kind: str = "single", how: Method | None = None, **changes: Any) -> Learner:
    """A learner whose adapter has an effect, on a backbone of its own."""
    home = Backbone.open(tiny.backbone(family, **changes))
    bank = Bank(home)
    adapter = Adapter.make(home, "a", how or subjects.method("lora", top=1), subjects.task(kind))
    with torch.no_grad():
        for parameter in adapter.body.module().parameters():
            parameter.normal_(std=0.3)
    bank.add(adapter)
    learner = Learner(bank, adapter)
    learner.mode(False)
    return learner


@pytest.mark.parametrize(("family", "kind", "top"), PASSED)
@torch.no_grad()
def test_passed_over_is_the_same(family: str, kind: str, top: int) -> None:
    """A batch whose trunk states are given has the very logits that it has without them."""
    learner = made(family, kind, subjects.method("lora", top=top))
    inputs = subjects.batch(family, kind)
    whole = learner(**inputs)
    assert learner.trunk is not None
    with learner.trunk.listening():
        states = learner.trunk_states(inputs)
        assert torch.equal(learner(trunk_states=states, **inputs), whole)
        other = tuple(torch.randn_like(state) for state in states)
        assert not torch.allclose(learner(trunk_states=other, **inputs), whole)


def test_the_model_stays_untouched() -> None:
    """Modules, classes, state_dict and hooks are the same objects while a trunk listens, and all is gone after it."""
    learner = made("bert")
    model = learner.bank.backbone.model

    def shape() -> list[Any]:
        return [(name, id(module), type(module), len(module._forward_hooks)) for name, module in model.named_modules()]

    before, keys = shape(), list(model.state_dict())
    assert learner.trunk is not None
    with learner.trunk.listening():
        assert shape() == before and list(model.state_dict()) == keys
        twin = copy.deepcopy(model)
    assert shape() == before
    assert not any("forward" in module.__dict__ for module in model.modules())
    inputs = subjects.batch("bert", "single")
    assert torch.equal(twin(**inputs)[0], model(**inputs)[0])


def test_another_thread_is_not_passed_over() -> None:
    """While one thread's call begins above the trunk, another thread's call runs all of it."""
    learner, inputs = made("bert"), subjects.batch("bert", "single")
    whole = learner(**inputs)
    assert learner.trunk is not None
    found: list[torch.Tensor] = []
    with learner.trunk.listening():
        states = tuple(torch.zeros_like(state) for state in learner.trunk_states(inputs))
        with passing(learner.trunk, states):
            thread = threading.Thread(target=lambda: found.append(learner(**inputs)))
            thread.start()
            thread.join(20)
    assert torch.equal(found[0], whole)


def test_an_error_leaves_nothing_behind() -> None:
    """A call that fails above the trunk is followed by one that is right."""
    learner, inputs = made("bert"), subjects.batch("bert", "single")
    whole = learner(**inputs)
    assert learner.trunk is not None
    with learner.trunk.listening():
        states = learner.trunk_states(inputs)
        with pytest.raises(RuntimeError):
            learner(trunk_states=tuple(state[:, :1] for state in states), **inputs)
        assert torch.equal(learner(**inputs), whole)


def test_two_trunks_listen_at_once() -> None:
    """Learners whose lowest adapters differ listen on one backbone; each passes over its own blocks."""
    home = Backbone.open(tiny.backbone("bert", num_hidden_layers=3))
    bank, learners, inputs = Bank(home), [], subjects.batch("bert", "single")
    for name, top in (("low", 2), ("high", 1)):
        adapter = Adapter.make(home, name, subjects.method("lora", top=top), subjects.task("single"))
        bank.add(adapter)
        learners.append(Learner(bank, adapter))
    for learner in learners:
        learner.mode(False)
    whole = [learner(**inputs) for learner in learners]
    low, high = (learner.trunk for learner in learners)
    assert low is not None and high is not None and (low.depth, high.depth) == (1, 2)
    with low.listening(), high.listening():
        for learner, logits in zip(learners, whole, strict=True):
            assert torch.equal(learner(trunk_states=learner.trunk_states(inputs), **inputs), logits)


def test_no_trunk() -> None:
    """With adapters in the first block, shared blocks or a full fine-tuning there is none; a head's is everything."""
    assert made("bert", how=subjects.method("lora")).trunk is None
    assert made("albert", how=subjects.method("lora")).trunk is None
    whole = made("bert", how=subjects.method("head")).trunk
    assert whole is not None and whole.depth == tiny.BLOCKS


WIDE = {"dropout": 0.0, "num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2}
"""The shape on which floating-point operations are counted."""
ROWS, LENGTH = 4, 64


def flops(learner: Learner, *, checkpointing: bool = False, cached: bool = False) -> tuple[int, int]:
    """Operations of a training step, and of a forward of the bare backbone."""
    torch.manual_seed(0)
    ids = torch.randint(5, 100, (ROWS, LENGTH))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad(), FlopCounterMode(display=False) as bare:
        learner.bank.backbone.model(**inputs)
    assert not cached or learner.trunk is not None
    with learner.fitting(gradient_checkpointing=checkpointing):
        if learner.trunk is None or not cached:
            with FlopCounterMode(display=False) as counter:
                learner(**inputs).sum().backward()
        else:
            with learner.trunk.listening():
                states = learner.trunk_states(inputs)
                with FlopCounterMode(display=False) as counter:
                    learner(trunk_states=states, **inputs).sum().backward()
    return counter.get_total_flops(), bare.get_total_flops()


@pytest.mark.parametrize(("checkpointing", "most"), [(False, 1.45), (True, 1.75)])
def test_the_cost_of_the_top_blocks(checkpointing: bool, most: float) -> None:
    """LoRA in the top 3 of 12 blocks costs 1 + 3/12 forwards and its own products; checkpointing adds 3/12."""
    step, bare = flops(made("bert", how=subjects.method("lora", rank=8, top=3), **WIDE), checkpointing=checkpointing)
    assert step / bare <= most


@pytest.mark.parametrize("name", ["adalora", "bottleneck", "prefix"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_cost_of_every_method(name: str, checkpointing: bool) -> None:
    """Any method in the top 3 of 12 blocks costs at most LoRA's share of the backbone, and its own products twice over
    in each direction; nothing below is touched."""
    learner = made("bert", how=subjects.method(name, top=3), **WIDE)
    step, bare = flops(learner, checkpointing=checkpointing)
    own = sum(p.numel() for p in learner.adapter.body.module().parameters())
    times = 8 if checkpointing else 6  # forward, both gradients, and the forward once more: two operations each
    allowed = bare * (1.25 + 0.25 * checkpointing) + times * own * ROWS * LENGTH
    if name == "prefix":  # keys and values of every block are longer, which the attention's own products feel
        allowed *= 1.1
    assert step <= allowed * 1.02


def test_the_cost_with_cached_states() -> None:
    """With the trunk's states given, a step costs 2 * 3/12 forwards and the adapter's own products."""
    learner = made("bert", how=subjects.method("lora", rank=8, top=3), **WIDE)
    step, bare = flops(learner, cached=True)
    assert step / bare <= 0.25 * 2.6


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_of_the_trunk_is_kept_for_the_backward_pass(checkpointing: bool) -> None:
    """What autograd saves in a step does not grow with the number of blocks below the lowest adapter."""

    def kept(blocks: int) -> int:
        learner = made("bert", how=subjects.method("lora", top=1), **{**WIDE, "num_hidden_layers": blocks})
        seen: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            if not isinstance(tensor, nn.Parameter):
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = subjects.batch("bert", "single")
        weights = {p.untyped_storage().data_ptr() for p in learner.bank.backbone.model.parameters()}
        noting = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with learner.fitting(gradient_checkpointing=checkpointing), noting:
            learner(**inputs)
        return sum(size for place, size in seen.items() if place not in weights)

    assert kept(2) == kept(6)


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "gpt2", "llama", "t5", "bart"])
def test_no_dropout_in_the_trunk(family: str) -> None:
    """While a learner trains, what its trunk makes of a batch is the same each time; what lies above it drops."""
    learner, inputs = made(family, dropout=0.5), subjects.batch(family, "single")
    assert learner.trunk is not None
    with learner.fitting(), learner.trunk.listening():
        first, second = learner.trunk_states(inputs), learner.trunk_states(inputs)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
        if family != "llama":  # which has no dropout
            assert not torch.equal(learner(**inputs), learner(**inputs))


def test_a_peft_methods_trunk_is_frozen_as_well() -> None:
    """Modules that peft replaced in the upper block leave the lower ones in eval mode and out of the graph."""
    from peft import IA3Config

    config = IA3Config(
        target_modules=r".*layer\.1\..*(key|value|output\.dense)", feedforward_modules=r".*layer\.1\.output\.dense"
    )
    from petune.methods.base import as_method

    home = Backbone.open(tiny.backbone("bert"))
    adapter = Adapter.make(home, "a", as_method(config), subjects.task("single"))
    bank = Bank(home)
    bank.add(adapter)
    learner = Learner(bank, adapter)
    with learner.fitting():
        assert learner.lowest_block == 1
        assert not any(module.training for module in home.model.encoder.layer[0].modules())
        assert home.model.encoder.layer[1].training
