"""Laws 7 and 8: merging changes no answer, unmerging gives every bit back, and nothing else happens meanwhile."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from petune.errors import AdapterError, MergeError, RouteError
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.merging import merge, merged_copy
from petune.model.probe import TOLERANCES
from petune.model.running import run
from tests.conformance.subjects import (
    add,
    batch,
    differ,
    hidden,
    ids,
    method,
    open_backbone,
    same,
    snapshot,
    subject,
)
from tests.covering import CASES
from tests.kinds import KINDS

MERGEABLE = [case for case in CASES if method(case.method).mergeable and not KINDS[case.task].own_pieces]
OTHERS = [case for case in CASES if case not in MERGEABLE]


@pytest.mark.parametrize("case", MERGEABLE, ids=ids(MERGEABLE))
@torch.no_grad()
def test_merged_equals_active_and_unmerge_is_bit_exact(case):
    """Laws 7 and 8: merged logits equal the active ones, the receipt says by how much; unmerge gives every bit back."""
    one = subject(case)
    before, active = snapshot(one.backbone.model), one.logits()
    receipt = merge(one.bank, one.adapter)
    merged = one.logits()
    model = one.adapter.shell.model
    plain = model(**one.adapter.shell.inputs(one.inputs))  # without petune
    assert torch.equal(one.adapter.task.logits(plain, one.inputs), merged)
    assert differ(merged, active) <= 1e-5 * max(1.0, float(active.abs().max()))
    assert receipt.max_logit_difference <= receipt.tolerance
    assert receipt.sites == len(one.adapter.body.sites)
    assert case.method == "head" or not same(snapshot(one.backbone.model), before)
    one.bank.unmerge()
    assert same(snapshot(one.backbone.model), before)
    assert torch.equal(one.logits(), active)


@pytest.mark.parametrize("case", OTHERS, ids=ids(OTHERS))
def test_a_method_without_a_weight_change_refuses(case):
    """Law 7: methods without a weight change, and tasks with pieces of their own, say why not, and change nothing."""
    one = subject(case)
    before = snapshot(one.backbone.model)
    for attempt in (merge, merged_copy):
        with pytest.raises(MergeError, match=r"merge"):
            attempt(one.bank, one.adapter)
    assert same(snapshot(one.backbone.model), before)
    assert one.bank.merged is None


@pytest.mark.parametrize("case", MERGEABLE[::5], ids=ids(MERGEABLE[::5]))
@torch.no_grad()
def test_a_merged_model_is_a_transformers_model(case, tmp_path):
    """Law 7: the merged model, saved by transformers and loaded by it, gives the same logits and knows the labels."""
    one = subject(case)
    active = one.logits()
    model, receipt = merged_copy(one.bank, one.adapter)
    assert receipt.max_logit_difference <= receipt.tolerance
    model.save_pretrained(tmp_path)
    loaded = getattr(transformers, one.adapter.task.auto_class).from_pretrained(tmp_path).eval()
    inputs = one.adapter.shell.inputs(one.inputs)
    given = one.adapter.task.logits(loaded(**inputs), one.inputs)
    assert differ(given, active) <= 1e-5 * max(1.0, float(active.abs().max()))
    labels = one.adapter.task.labels
    assert not labels or [loaded.config.id2label[index] for index in range(len(labels))] == list(labels)


@pytest.mark.parametrize("case", MERGEABLE[::5], ids=ids(MERGEABLE[::5]))
@torch.no_grad()
def test_a_merged_copy_leaves_the_backbone_alone(case):
    """A merged copy has no hook and no mark of petune, is a backbone like any other, and shares nothing."""
    one = subject(case)
    neighbour = Bank(one.backbone)
    add(neighbour, "neighbour", method("bottleneck"), case.task)
    before, active = snapshot(one.backbone.model), one.logits()
    model, _ = merged_copy(one.bank, one.adapter)
    assert same(snapshot(one.backbone.model), before)
    assert torch.equal(one.logits(), active)
    # Heads cast what they are given to their own precision; a few models have theirs inside of their base.
    heads = tuple(name.rsplit(".", 1)[0] for name in one.adapter.shell.head())
    inside = [module for path, module in model.base_model.named_modules() if not path.startswith(heads)]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in inside)
    # It can be adapted in its turn.
    bank = Bank(Backbone(model))
    bank.backbone.pad_token_id = one.backbone.pad_token_id
    add(bank, "next", method("lora"), case.task)
    again = run(bank, bank.frame("next"), one.inputs)
    assert one.adapter.task.logits(again, one.inputs).shape == active.shape
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(one.logits(), active)


@pytest.mark.parametrize("recipe", ["lora", "adalora"])
@torch.no_grad()
def test_fifty_bf16_cycles_do_not_drift(recipe):
    """Law 8: after fifty times merge and unmerge a bf16 backbone has the same bits."""
    bank = Bank(open_backbone("bert"))
    bank.backbone.model.to(torch.bfloat16)
    adapter = add(bank, "mine", method(recipe), "single")
    before = snapshot(bank.backbone.model)
    for _ in range(50):
        bank.merge("mine")
        assert not same(snapshot(bank.backbone.model), before)
        bank.unmerge()
        assert same(snapshot(bank.backbone.model), before)
    assert adapter.name in bank.residents


@torch.no_grad()
def test_rank_stabilised_and_per_site_ranks_merge():
    """A weight of 1.0 is the identity of scaling: rsLoRA's root and a rank of zero at a site merge exactly too."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    first = next(site.path for site in bank.backbone.sites(bank.backbone.model, method("lora")))
    recipe = method("lora", rslora=True, alpha=3.0, ranks={first: 0})
    adapter = add(bank, "mine", recipe, "single")
    active = run(bank, bank.frame("mine"), inputs).logits
    merge(bank, adapter)
    assert differ(run(bank, bank.frame("mine"), inputs).logits, active) <= 1e-5


def test_while_merged_everything_else_is_refused():
    """Merge is exclusive: another route, add, remove, replace and merge are errors that name unmerge."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    adapter, other = add(bank, "mine", method("lora"), "single"), add(bank, "other", method("lora"), "multi")
    merge(bank, adapter)
    for work in (
        lambda: run(bank, bank.frame("other"), inputs),
        lambda: run(bank, bank.frame(None), inputs),
        lambda: run(bank, bank.frame(["mine", None, "mine", "mine", "mine"]), inputs),
        lambda: bank.add(other.renamed("third")),
        lambda: bank.add(adapter),
        lambda: bank.remove("other"),
        lambda: merge(bank, other),
        lambda: merged_copy(bank, other),
        lambda: Bank(bank.backbone).frame(None),  # another tuner on the same weights
    ):
        with pytest.raises(MergeError, match="unmerge"):
            work()
    bank.unmerge()
    with pytest.raises(MergeError, match="Nothing is merged"):
        bank.unmerge()
    bank.remove("other")
    with pytest.raises(RouteError):
        merge(bank, other)


def test_a_merge_that_fails_halfway_changes_nothing(monkeypatch):
    """An error at a late site leaves every weight as it was, and nothing merged."""
    bank = Bank(open_backbone("bert"))
    adapter = add(bank, "mine", method("lora"), "single")
    before = snapshot(bank.backbone.model)
    last = list(adapter.body.layers.values())[-1]

    def fail():
        raise MemoryError("no room for the change")

    monkeypatch.setattr(last, "delta", fail)
    with pytest.raises(MemoryError):
        merge(bank, adapter)
    assert same(snapshot(bank.backbone.model), before)
    assert bank.merged is None


@torch.no_grad()
def test_a_copy_of_a_merged_bank_unmerges_itself():
    """Law 14 while merged: the copy's unmerge restores the copy, and the original stays merged."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    before = snapshot(bank.backbone.model)
    adapter = add(bank, "mine", method("lora"), "single")
    merge(bank, adapter)
    merged = snapshot(bank.backbone.model)
    twin = copy.deepcopy(bank)
    twin.unmerge()
    assert same(snapshot(twin.backbone.model), before)
    assert same(snapshot(bank.backbone.model), merged)
    bank.unmerge()
    assert same(snapshot(bank.backbone.model), before)
    assert differ(hidden(bank, inputs), hidden(twin, inputs)) == 0


def test_a_merge_that_would_change_answers_is_undone(monkeypatch):
    """A change of the logits beyond the tolerance is refused, with both numbers, and undone."""
    monkeypatch.setitem(TOLERANCES, torch.float32, 0.0)
    bank = Bank(open_backbone("bert"))
    adapter = add(bank, "mine", method("lora"), "single")
    before = snapshot(bank.backbone.model)
    with pytest.raises(MergeError, match=r"logits on the probe by .* At most"):
        merge(bank, adapter)
    assert same(snapshot(bank.backbone.model), before)
    assert bank.merged is None


def test_a_full_fine_tuning_is_no_resident():
    """`full` is a model of its own: add refuses it."""
    bank = Bank(open_backbone("bert"))
    whole = add(bank, "whole", method("full"), "single")
    with pytest.raises(AdapterError, match="full fine-tuning"):
        bank.add(whole)
