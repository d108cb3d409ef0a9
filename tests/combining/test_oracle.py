"""peft's `add_weighted_adapter` as the oracle where it is right, and the exact product where it is wrong."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from petune import LoRA
from petune.model.adapter import Adapter
from petune.model.combining import ways
from tests.combining.making import adapter, changes, merged, off, summed
from tests.conformance.subjects import open_backbone

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it
SITES: dict[str, Any] = {"targets": ("query", "ffn_output")}


def pair(*methods: LoRA, family: str = "bert") -> list[Adapter]:
    """Adapters with random weights on one backbone."""
    home = open_backbone(family)
    return [adapter(home, f"of_{seed}", method, seed=seed) for seed, method in enumerate(methods)]


@torch.no_grad()
def in_peft(made: Sequence[Adapter], family: str = "bert") -> Any:
    """The same adapters in peft's own layers, in a copy of the model that no adapter of petune's acts on yet."""
    model = copy.deepcopy(made[0].shell.model)
    prefix, theirs = model.base_model_prefix, None
    for one in made:
        method = one.method
        assert isinstance(method, LoRA)
        names = [f"{prefix}.{path}" for path in one.body.layers]
        config = peft.LoraConfig(
            target_modules=names, r=method.rank, lora_alpha=method.alpha, use_rslora=method.rslora,
            fan_in_fan_out=family == "gpt2",
        )  # fmt: skip
        if theirs is None:
            theirs = peft.get_peft_model(model, config, adapter_name=one.name)
        else:
            theirs.add_adapter(one.name, config)
        for path, layer in one.body.layers.items():
            inside = theirs.get_submodule(f"base_model.model.{prefix}.{path}")
            inside.lora_A[one.name].weight.copy_(layer.lora_A)
            inside.lora_B[one.name].weight.copy_(layer.lora_B)
    return theirs


def by_peft(made: Sequence[Adapter], weights: Sequence[float], kind: str, family: str = "bert", **more: Any) -> Any:
    """Site path -> the change that peft's combination makes, in float64."""
    theirs, prefix = in_peft(made, family), made[0].shell.model.base_model_prefix
    theirs.add_weighted_adapter([one.name for one in made], list(weights), "both", combination_type=kind, **more)
    found: dict[str, Tensor] = {}
    for path in dict.fromkeys(path for one in made for path in one.body.layers):
        change = theirs.get_submodule(f"base_model.model.{prefix}.{path}").get_delta_weight("both").detach().double()
        found[path] = change.T if family == "gpt2" else change
    return found


PLAIN = LoRA(rank=4, alpha=8.0, **SITES)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, -0.4)], ids=str)
def test_svd_equals_peft(family, weights):
    """Cut to the same rank, plain LoRA adapters of other ranks and alphas give peft's change."""
    made = pair(PLAIN, LoRA(rank=3, alpha=2.0, **SITES), family=family)
    theirs = by_peft(made, weights, "svd", family, svd_rank=3)
    ours = merged(made, weights, "svd", rank=3, head=0, family=family)
    assert off(changes(ours.adapter), theirs) < 1e-5


def test_cat_equals_peft():
    """Plain LoRA adapters side by side, other sites included."""
    made = pair(PLAIN, LoRA(rank=2, targets=("query",)))
    theirs = by_peft(made, [0.3, 0.6], "cat")
    assert off(changes(merged(made, [0.3, 0.6], "cat").adapter), theirs) < 1e-6


def test_linear_of_one_adapter_equals_peft():
    """The only linear merge of peft's that is one: a single plain adapter with a weight above zero."""
    made = pair(PLAIN)
    theirs = by_peft(made, [0.6], "linear")
    assert off(changes(merged(made, [0.6]).adapter), theirs) < 1e-6


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 0.25, 0.75)], ids=str)
@pytest.mark.parametrize("majority", ["total", "frequency"])
def test_ties_equals_peft(weights, majority):
    """TIES on the whole products, nothing cut: the same entries, signs and means, also with unequal weights."""
    made = pair(PLAIN, LoRA(rank=4, alpha=3.0, **SITES), LoRA(rank=2, alpha=1.0, **SITES))
    theirs = by_peft(made, weights, "ties_svd", svd_rank=32, density=0.3, majority_sign_method=majority)
    ours = merged(made, weights, "ties", density=0.3, rank=32, majority_sign=majority)
    assert off(changes(ours.adapter), theirs) < 1e-5
    assert ours.report.relative_error < 1e-5


def test_magnitude_pruning_equals_peft():
    """Also below zero, where no sign is elected."""
    made = pair(PLAIN, PLAIN)
    theirs = by_peft(made, [0.5, -0.25], "magnitude_prune_svd", svd_rank=32, density=0.4)
    ours = merged(made, [0.5, -0.25], "magnitude_prune", density=0.4, rank=32, head=0)
    assert off(changes(ours.adapter), theirs) < 1e-5


@pytest.mark.parametrize("how", ["dare_linear", "dare_ties"])
def test_dare_equals_peft_where_both_drop_the_same(how, monkeypatch):
    """Other random numbers drop other entries; with our mask in peft's place the rest of the arithmetic agrees."""

    def drops() -> Any:
        drawn = torch.Generator().manual_seed(4)  # sites and adapters come in the same order on both sides

        def drop(change: Tensor, density: float, *_: Any, **__: Any) -> Tensor:
            dropped = torch.rand(change.shape, generator=drawn) >= density
            return change.masked_fill(dropped, 0.0) / density

        return drop

    made = pair(PLAIN, LoRA(rank=4, alpha=5.0, **SITES))
    monkeypatch.setattr(peft.utils.merge_utils, "random_pruning", drops())
    ours_drops = drops()
    monkeypatch.setattr(ways, "drop_at_random_", lambda change, *rest: change.copy_(ours_drops(change, *rest)))
    theirs = by_peft(made, [0.5, 0.8], f"{how}_svd", svd_rank=32, density=0.4)
    ours = merged(made, [0.5, 0.8], how, density=0.4, rank=32)
    assert off(changes(ours.adapter), theirs) < 1e-5


@pytest.mark.parametrize(
    ("methods", "kind"),
    [
        ((PLAIN, PLAIN), "linear"),
        ((PLAIN, LoRA(rank=4, alpha=1.0, **SITES)), "linear"),
        ((LoRA(rank=4, rslora=True, **SITES),), "linear"),
        ((LoRA(rank=4, rslora=True, **SITES), LoRA(rank=4, rslora=True, **SITES)), "svd"),
        ((LoRA(rank=4, rslora=True, **SITES), PLAIN), "cat"),
    ],
    ids=["cross terms", "other alphas", "one rsLoRA", "svd of rsLoRA", "cat of rsLoRA"],
)
def test_exact_where_peft_is_not(methods, kind):
    """A and B apart mix into each other, and rsLoRA's scale is lost: peft is off by a tenth and more, petune is not."""
    made = pair(*methods)
    weights = [1.0 / len(made)] * len(made)
    exact = summed(made, weights)
    more = {"svd_rank": 8} if kind == "svd" else {}
    assert off(by_peft(made, weights, kind, **more), exact) > 0.1
    ours = merged(made, weights, kind, rank=8 if kind == "svd" else None)
    assert off(changes(ours.adapter), exact) < 1e-6


def test_what_peft_refuses():
    """Other ranks have no linear merge there, and a rank pattern is none to it."""
    made = pair(PLAIN, LoRA(rank=2, **SITES))
    with pytest.raises(ValueError, match="same r value"):
        by_peft(made, [0.5, 0.5], "linear")
    assert off(changes(merged(made).adapter), summed(made, [0.5, 0.5])) < 1e-6
