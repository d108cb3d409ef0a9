"""peft as the oracle: the same LoRA and AdaLoRA weights in peft's own layers give equal logits and merged weights."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from petune.methods.adalora import AdaLoRALayer
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.merging import merge
from petune.model.routing import entered
from petune.model.running import run
from tests.conformance.subjects import add, batch, differ, method, open_backbone

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it

FAMILIES = ("bert", "gpt2", "llama", "t5", "deberta-v2")
KNOBS = ({}, {"rslora": True, "alpha": 3.0}, {"alpha": 1.0, "rank": 5}, {"targets": ("query", "value")})


def names(adapter: Adapter) -> list[str]:
    """The paths of the sites inside the task's model."""
    prefix = adapter.shell.model.base_model_prefix
    return [f"{prefix}.{path}" for path in adapter.body.layers]


@torch.no_grad()
def lora_in_peft(bank: Bank, adapter: Adapter, **config: object) -> peft.PeftModel:
    """The task's model with the same LoRA in peft's own layers."""
    bank.remove(adapter.name)
    model = copy.deepcopy(adapter.shell.model)
    made = peft.get_peft_model(model, peft.LoraConfig(target_modules=names(adapter), **config)).eval()
    for path, layer in adapter.body.layers.items():
        theirs = made.get_submodule(f"base_model.model.{model.base_model_prefix}.{path}")
        theirs.lora_A["default"].weight.copy_(layer.lora_A)
        theirs.lora_B["default"].weight.copy_(layer.lora_B)
    bank.add(adapter)
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@torch.no_grad()
def test_lora_equals_peft(family, knobs):
    """LoRA's logits and merged weights are those of peft's LoRA, with and without rsLoRA, Conv1D included."""
    bank, inputs = Bank(open_backbone(family)), batch(family, "single")
    recipe = method("lora", **knobs)
    adapter = add(bank, "mine", recipe, "single")
    theirs = lora_in_peft(
        bank, adapter, r=recipe.rank, lora_alpha=recipe.alpha, use_rslora=recipe.rslora,
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    ours = run(bank, bank.frame("mine"), inputs).logits
    given = adapter.shell.inputs(inputs)
    assert differ(ours, theirs(**given).logits) <= 1e-5 * max(1.0, float(ours.abs().max()))
    merged = theirs.merge_and_unload()
    merge(bank, adapter)
    want = dict(merged.named_parameters())
    for name, parameter in adapter.shell.model.named_parameters():
        assert differ(parameter, want[name]) <= 1e-5, name


@pytest.mark.parametrize("family", ("bert", "gpt2", "llama"))
@torch.no_grad()
def test_adalora_equals_peft(family):
    """AdaLoRA's logits are those of peft's own layer (which divides by the rank plus 1e-5), pruned ranks included."""
    bank, inputs = Bank(open_backbone(family)), batch(family, "single")
    recipe = method("adalora", alpha=6.0)
    adapter = add(bank, "mine", recipe, "single")
    for layer in adapter.body.layers.values():
        assert isinstance(layer, AdaLoRALayer)
        layer.lora_E[1:3] = 0.0
    ours = run(bank, bank.frame("mine"), inputs).logits
    bank.remove("mine")
    model = copy.deepcopy(adapter.shell.model)
    config = peft.AdaLoraConfig(
        target_modules=names(adapter), init_r=4, target_r=2, lora_alpha=6, total_step=10, tinit=1, tfinal=1,
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    theirs = peft.get_peft_model(model, config).eval()
    for path, layer in adapter.body.layers.items():
        inside = theirs.get_submodule(f"base_model.model.{model.base_model_prefix}.{path}")
        for part in ("lora_A", "lora_E", "lora_B"):
            getattr(inside, part)["default"].copy_(getattr(layer, part))
        inside.ranknum["default"].fill_(4.0)
    answer = theirs(**adapter.shell.inputs(inputs)).logits
    assert differ(ours, answer) <= 2e-5 * max(1.0, float(ours.abs().max()))
    # What is kept after a fit is a plain LoRA with the same answers, the zeroed ranks left out.
    settled = adapter.settled()
    bank.add(settled)
    assert {layer.lora_A.shape[0] for layer in settled.body.layers.values()} == {2}
    assert differ(run(bank, bank.frame("mine"), inputs).logits, ours) <= 1e-5


@torch.no_grad()
def test_the_oracle_is_not_blind():
    """Other weights in peft's layers give other logits, so equality above means something."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    adapter = add(bank, "mine", method("lora"), "single")
    theirs = lora_in_peft(bank, adapter, r=4, lora_alpha=16.0)
    first = next(iter(adapter.body.layers.values()))
    first.lora_A.add_(torch.randn(first.lora_A.shape) * 0.1)  # a constant would fall to the layer norm
    with entered(None):
        answer = theirs(**adapter.shell.inputs(inputs)).logits
    assert differ(run(bank, bank.frame("mine"), inputs).logits, answer) > 1e-4
