"""Laws 1, 2, 12 and 16: the identity at the start, who gets gradients, seeds, and gradient checkpointing."""

from __future__ import annotations

import pytest
import torch

from petune.errors import BackboneError
from petune.model.bank import Bank
from petune.model.learner import Learner
from petune.model.routing import entered
from tests.conformance.subjects import (
    HEADLESS,
    Subject,
    add,
    batch,
    differ,
    examples,
    ids,
    method,
    open_backbone,
    same,
    subject,
    task,
    tokenizer,
)
from tests.covering import CASES
from tests.kinds import KINDS

SHARED = [case for case in CASES if case.method != "full"]
READ = [case for case in SHARED if not KINDS[case.task].own_pieces]
"""Those whose batches the bare backbone can read."""
UNCHECKPOINTED = ("albert", "mpnet")
"""Families whose blocks transformers cannot checkpoint."""


def loss_of(one: Subject, kind: str, learner: Learner) -> torch.Tensor:
    """The task's loss on the batch."""
    family = one.backbone.model_type
    labels = task(kind).collate(examples(family, kind), tokenizer(family, kind)).labels
    assert labels is not None
    return task(kind).loss(learner(**one.inputs).float(), labels)


@pytest.mark.parametrize("case", READ, ids=ids(READ))
def test_a_fresh_adapter_is_the_identity(case):
    """Law 1: a fresh adapter leaves the backbone's output as it is, to the bit, where its method says so."""
    one = subject(case, shaken=False)
    with torch.no_grad(), entered(None):
        output = one.adapter.shell.model(**one.adapter.shell.inputs(one.inputs))
        bare = one.adapter.task.logits(output, one.inputs)
    assert torch.equal(one.logits(), bare) == one.adapter.method.identity_at_start


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_only_its_own_parameters_get_gradients(case):
    """Law 2: every layer and head parameter gets a gradient, the shared backbone none; flags are put back."""
    one = subject(case)
    shared = one.backbone.model
    before = {name: (p.requires_grad, p.grad) for name, p in shared.named_parameters()}
    learner = Learner(one.bank, one.adapter)
    with learner.fitting():
        if case.method != "full":
            assert not any(p.requires_grad for p in shared.parameters())
        loss_of(one, case.task, learner).backward()
    assert {name: (p.requires_grad, p.grad) for name, p in shared.named_parameters()} == before
    assert all(p.grad is not None for p in one.adapter.shell.head().values())
    for path, layer in one.adapter.body.layers.items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters()), path
    if case.method == "full":
        touched = [p.grad is not None for p in learner.parameters()]
        assert sum(touched) > len(touched) / 2


# A full fine-tuning of a language model starts from the checkpoint alone: nothing of it is drawn.
DRAWN = [case for case in CASES if case.method != "full" or case.task not in HEADLESS][::3]


@pytest.mark.parametrize("case", DRAWN, ids=ids(DRAWN))
def test_same_seed_same_weights(case):
    """Law 12: the seed decides every first weight of adapter and head; another seed makes others."""
    bank = Bank(open_backbone(case.family))
    states = [
        Learner(bank, add(bank, "mine", method(case.method), case.task, shaken=False, seed=seed)).state()
        for seed in (1, 1, 2)
    ]
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def gradients(one: Subject, kind: str, *, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Every gradient of one step under a fixed seed, dropout on."""
    learner = Learner(one.bank, one.adapter)
    learner.zero_grad()
    torch.manual_seed(3)
    with learner.fitting(gradient_checkpointing=checkpointing):
        loss = loss_of(one, kind, learner)
        loss.backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


# The kind of task only changes the head, which is never recomputed: every second case.
CHECKPOINTED = [case for case in CASES if case.family not in UNCHECKPOINTED and case.method != "head"][::2]


@pytest.mark.parametrize("case", CHECKPOINTED, ids=ids(CHECKPOINTED))
def test_gradient_checkpointing_gives_the_same_gradients(case):
    """Law 16: recomputing activations changes no gradient, with dropout on; nothing of the switch stays behind."""
    one = subject(case, dropout=0.1)
    plain = gradients(one, case.task, checkpointing=False)
    modules = list(one.backbone.model.modules())
    attributes = [set(module.__dict__) for module in modules]
    checkpointed = gradients(one, case.task, checkpointing=True)
    assert plain.keys() == checkpointed.keys()
    worst = max(differ(plain[name], checkpointed[name]) / (1 + float(plain[name].abs().max())) for name in plain)
    assert worst <= 1e-6
    left = [set(module.__dict__) - before for module, before in zip(modules, attributes, strict=True)]
    assert not set().union(*left) - {"gradient_checkpointing"}
    assert not any(getattr(module, "gradient_checkpointing", False) for module in modules)


@pytest.mark.parametrize("family", UNCHECKPOINTED)
@pytest.mark.parametrize("recipe", ["lora", "full"])
def test_a_family_without_checkpointing_refuses(family, recipe):
    """Law 16: where transformers cannot checkpoint a block, asking for it is an error and not a silent no."""
    bank = Bank(open_backbone(family))
    adapter = add(bank, "mine", method(recipe), "single")
    with (
        pytest.raises(BackboneError, match="gradient checkpointing"),
        Learner(bank, adapter).fitting(gradient_checkpointing=True),
    ):
        pass


def test_checkpointing_recomputes(monkeypatch):
    """Law 16: with checkpointing each adapted block runs twice, so memory is really given back."""
    bank = Bank(open_backbone("bert"))
    adapter = add(bank, "mine", method("lora"), "single")
    one = Subject(bank, adapter, batch("bert", "single"))
    calls = []
    handle = bank.backbone.model.encoder.layer[0].attention.register_forward_hook(lambda *_: calls.append(1))
    gradients(one, "single", checkpointing=True)
    handle.remove()
    assert len(calls) == 2


def test_the_trunk_below_is_in_eval_mode_and_not_recomputed():
    """Blocks below the lowest adapter run without dropout and without gradients, those above with both."""
    bank = Bank(open_backbone("bert", dropout=0.5))
    adapter = add(bank, "mine", method("lora", top=1), "single")
    learner = Learner(bank, adapter)
    below, above = bank.backbone.model.encoder.layer
    with learner.fitting():
        assert not any(module.training for module in below.modules())
        assert all(module.training for module in above.modules())
        seen = []
        handle = below.register_forward_hook(lambda module, args, output: seen.append(output))
        learner(**batch("bert", "single"))
        handle.remove()
    first = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert not first.requires_grad
    assert not any(module.training for module in bank.backbone.model.modules())


@pytest.mark.parametrize("recipe", ["lora", "full"])
def test_backbone_dropout_can_be_off(recipe):
    """`backbone_dropout=False`: two forwards in training are equal when the adapter has no dropout of its own."""
    bank = Bank(open_backbone("distilbert", dropout=0.5, seq_classif_dropout=0.0))
    learner = Learner(bank, add(bank, "mine", method(recipe), "single"))
    inputs = batch("distilbert", "single")
    with learner.fitting(backbone_dropout=True):
        assert differ(learner(**inputs), learner(**inputs)) > 0
    with learner.fitting(backbone_dropout=False):
        assert differ(learner(**inputs), learner(**inputs)) == 0
