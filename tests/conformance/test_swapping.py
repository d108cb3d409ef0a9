"""Laws 5, 6, 14 and 19: swapping, removing, copying, and what an exception leaves behind."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from transformers import masking_utils

from petune.adapted import AdaptedModel
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.running import run
from petune.model.taps import NOTES
from tests import tiny
from tests.conformance.subjects import (
    add,
    batch,
    hidden,
    ids,
    method,
    open_backbone,
    same,
    snapshot,
    subject,
    task,
    tokenizer,
)
from tests.covering import CASES, NO_PREFIX
from tests.kinds import KINDS

SHARED = [case for case in CASES if case.method != "full"]
PREFIXED = [case for case in SHARED if case.method == "prefix"]


def another(case) -> str:
    """A method of another kind that the family takes."""
    if case.method == "prefix" or case.family in NO_PREFIX:
        return "bottleneck" if case.method == "lora" else "lora"
    return "prefix"


def adapted(case) -> AdaptedModel:
    """An adapted model with the case's adapter as `mine`, and one of another method as `other`."""
    model = AdaptedModel(tiny.backbone(case.family), tokenizer=tokenizer(case.family, case.task))
    model.backbone.pad_token_id = getattr(tokenizer(case.family, case.task), "pad_token_id", None)
    workshop = Bank(Backbone(model.backbone.model))
    workshop.backbone.pad_token_id = model.backbone.pad_token_id
    for name, recipe in (("mine", case.method), ("other", another(case))):
        made = add(workshop, name, method(recipe), case.task, seed=len(name))
        workshop.remove(name)
        model.add(name, made.settled())
    return model


def marks(model: torch.nn.Module) -> list[object]:
    """What petune could leave on a backbone: hooks, attention settings, modes, flags."""
    found: list[object] = []
    for path, module in model.named_modules():
        hooks = [hook for hook in module._forward_hooks.values() if getattr(hook, "__module__", None) != NOTES]
        found.append((path, module.training, len(hooks), len(module._forward_pre_hooks)))
        found.append(str(getattr(getattr(module, "config", None), "_attn_implementation", None)))
        found.append([parameter.requires_grad for parameter in module.parameters(recurse=False)])
    return found


@pytest.mark.parametrize("case", SHARED, ids=ids(SHARED))
@torch.no_grad()
def test_a_b_a_is_bit_equal(case):
    """Law 5: the logits of an adapter are the same bits before, beside and after another method's adapter."""
    one = subject(case)
    alone = one.logits()
    add(one.bank, "other", method(another(case)), case.task, seed=7)
    assert torch.equal(one.logits(), alone)
    other = one.logits("other")
    assert not torch.equal(other, alone)
    assert torch.equal(one.logits(), alone)
    assert torch.equal(one.logits("other"), other)
    one.bank.remove("other")
    assert torch.equal(one.logits(), alone)


@pytest.mark.parametrize("case", SHARED[::4], ids=ids(SHARED[::4]))
@torch.no_grad()
def test_use_and_routes_agree(case):
    """Law 5: `use`, a route, and `routed` give the same bits; a call's route overrides the default."""
    model, inputs = adapted(case), batch(case.family, case.task)
    said = functools.partial(task(case.task).logits, inputs=inputs)
    mine = said(model(**inputs, route="mine"))
    model.use("other")
    other = said(model(**inputs))
    assert not torch.equal(mine, other)
    assert torch.equal(said(model(**inputs, route="mine")), mine)
    with model.routed("mine"):
        assert torch.equal(said(model(**inputs)), mine)
        assert torch.equal(said(model(**inputs, route="other")), other)
    assert torch.equal(said(model(**inputs)), other)
    assert torch.equal(said(model.use("mine")(**inputs)), mine)


@pytest.mark.parametrize("case", SHARED, ids=ids(SHARED))
@torch.no_grad()
def test_removal_leaves_no_trace(case):
    """Law 6: after remove the backbone is what it was: bits, hooks, attention setting, modes and flags."""
    bank = Bank(open_backbone(case.family))
    inputs = batch(case.family, case.task)
    before, traces, output = snapshot(bank.backbone.model), marks(bank.backbone.model), hidden(bank, inputs)
    add(bank, "mine", method(case.method), case.task)
    add(bank, "other", method(another(case)), case.task)
    assert torch.equal(hidden(bank, inputs), output)  # nobody asked for an adapter
    bank.remove("mine")
    bank.remove("other")
    assert marks(bank.backbone.model) == traces
    assert same(snapshot(bank.backbone.model), before)
    assert torch.equal(hidden(bank, inputs), output)


@pytest.mark.parametrize("case", CASES[::3], ids=ids(CASES[::3]))
@torch.no_grad()
def test_a_deep_copy_is_independent(case):
    """Law 14: a deep copy answers with the same bits; changing or removing the original does not reach it."""
    one = subject(case)
    twin = copy.deepcopy(one)
    was = one.logits()
    assert torch.equal(twin.logits(), was)
    for tensors in (one.backbone.model, one.adapter.body.module(), one.adapter.shell.head_module()):
        for parameter in tensors.parameters():
            parameter.zero_()
    assert torch.equal(twin.logits(), was)
    if case.method != "full":
        one.bank.remove("mine")
        assert torch.equal(twin.logits(), was)
        twin.bank.remove("mine")
        assert marks(twin.backbone.model) == marks(open_backbone(case.family).model)


def called(model: AdaptedModel, inputs: dict[str, torch.Tensor]) -> list[torch.nn.Module]:
    """The innermost modules of the backbone that run for this batch, in their order."""
    seen: dict[torch.nn.Module, None] = {}
    leaves = [module for module in model.backbone.model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(lambda module, *_: seen.setdefault(module)) for module in leaves]
    model(**inputs, route="mine")
    for handle in handles:
        handle.remove()
    return list(seen)


@pytest.mark.parametrize("case", SHARED[::4], ids=ids(SHARED[::4]))
@torch.no_grad()
def test_an_exception_leaves_the_next_call_right(case):
    """Law 19: a call that fails anywhere leaves nothing behind, inside and outside of `routed`."""
    model, inputs = adapted(case), batch(case.family, case.task)
    said = functools.partial(task(case.task).logits, inputs=inputs)
    mine, bare = said(model(**inputs, route="mine")), hidden(model._bank, inputs)
    modules, nobody = called(model, inputs), "mine" if KINDS[case.task].own_pieces else None

    def fail(*_):
        raise KeyError("a failure inside")

    for module in modules[:: max(1, len(modules) // 4)]:
        handle = module.register_forward_hook(fail, prepend=True)
        with pytest.raises(KeyError), model.routed("other"):
            model(**inputs)
        with model.routed("mine"):
            with pytest.raises(KeyError):
                model(**inputs, route=["other", nobody] + ["mine"] * (len(next(iter(inputs.values()))) - 2))
            handle.remove()
            assert torch.equal(said(model(**inputs)), mine)
        assert torch.equal(said(model(**inputs, route="mine")), mine)
        assert torch.equal(hidden(model._bank, inputs), bare)


@pytest.mark.parametrize("case", PREFIXED, ids=ids(PREFIXED))
@torch.no_grad()
def test_two_banks_on_one_backbone_share_the_attention_switch(case):
    """The attention setting comes back when the last prefix of any tuner on the backbone is gone, not before."""
    shared = open_backbone(case.family)
    before = marks(shared.model)
    banks = [Bank(shared), Bank(shared)]
    for bank in banks:
        add(bank, "mine", method("prefix"), case.task)
    banks[0].remove("mine")
    assert marks(shared.model) != before
    banks[1].remove("mine")
    assert marks(shared.model) == before


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@torch.no_grad()
def test_a_prefix_beside_it_does_not_change_a_decoders_mask(family):
    """Law 5 without padding: the causal mask of a LoRA call is the same whether or not a prefix is resident."""
    bank, inputs = Bank(open_backbone(family)), batch(family, "single", n=1)
    add(bank, "mine", method("lora"), "single")
    alone, bare = subject_logits(bank, "mine", inputs), hidden(bank, inputs)
    add(bank, "other", method("prefix"), "single")
    calls = []
    original = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    try:
        masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = lambda *a, **k: calls.append(k) or original(*a, **k)
        assert torch.equal(subject_logits(bank, "mine", inputs), alone)
        assert torch.equal(hidden(bank, inputs), bare)
        assert all(call["allow_is_causal_skip"] for call in calls)
        calls.clear()
        subject_logits(bank, "other", inputs)
        assert calls and not any(call["allow_is_causal_skip"] for call in calls)
    finally:
        masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = original


@torch.no_grad()
def test_swapping_foo_leaves_foobar():
    """A name is a whole name: replacing and removing `foo` does not touch `foobar`."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    for index, name in enumerate(("foo", "foobar", "foo.bar", "fo")):
        add(bank, name, method("lora"), "single", seed=index)
    model = {name: subject_logits(bank, name, inputs) for name in bank.residents}
    add(bank, "foo", method("bottleneck"), "single", seed=9)
    bank.remove("fo")
    for name in ("foobar", "foo.bar"):
        assert torch.equal(subject_logits(bank, name, inputs), model[name])
    assert not torch.equal(subject_logits(bank, "foo", inputs), model["foo"])


def subject_logits(bank: Bank, name: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of a resident."""
    return run(bank, bank.frame(name), inputs).logits
