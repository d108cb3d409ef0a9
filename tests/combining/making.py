"""What merging is tried on: adapters of every low-rank kind on one tiny backbone, and the sums they must give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from petune import AdaLoRA, Head, LoRA, Tuner, merge_adapters
from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.running import run
from tests.conformance.subjects import open_backbone, shake, task, tokenizer

WAYS = ("linear", "task_arithmetic", "cat", "svd", "magnitude_prune", "ties", "dare_linear", "dare_ties")
QUERY, VALUE = (f"encoder.layer.0.attention.self.{name}" for name in ("query", "value"))
OUT = "encoder.layer.1.output.dense"
BOTH: dict[str, Any] = {"targets": ("query", "value")}
MIXES: dict[str, tuple[Method, Method]] = {
    "plain": (LoRA(rank=4, **BOTH), LoRA(rank=4, **BOTH)),
    "other ranks": (LoRA(rank=2, alpha=5.0, **BOTH), LoRA(rank=5, alpha=1.0, **BOTH)),
    "rslora": (LoRA(rank=4, alpha=3.0, rslora=True, **BOTH), LoRA(rank=3, alpha=None, **BOTH)),
    "rank patterns": (
        LoRA(rank=3, rslora=True, ranks={QUERY: 0, VALUE: 5}, **BOTH),
        LoRA(rank=2, ranks={QUERY: 0, VALUE: 1}, **BOTH),
    ),
    "other sites": (LoRA(rank=3, **BOTH), LoRA(rank=2, rslora=True, targets=("ffn_output",), top=1)),
    "adalora": (AdaLoRA(rank=2, init_rank=4, **BOTH), LoRA(rank=3, alpha=7.0, **BOTH)),
    "own names": (LoRA(rank=2, modules=("key", OUT)), LoRA(rank=3, **BOTH)),
    "only a head": (Head(), LoRA(rank=3, **BOTH)),
}


def adapter(home: Backbone, name: str, method: Method, kind: str = "single", seed: int = 1) -> Adapter:
    """An adapter of which every tensor has an effect; it is resident nowhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Adapter.make(home, name, method, task(kind))
        shake(made)
    return made


def adapters(mix: str, family: str = "bert") -> list[Adapter]:
    """The two adapters of a mix, on one backbone."""
    home = open_backbone(family)
    return [
        adapter(home, name, method, seed=seed) for seed, (name, method) in enumerate(zip("ab", MIXES[mix], strict=True))
    ]


def merged(made: Sequence[Adapter], *args: Any, family: str = "bert", **knobs: Any) -> Tuner:
    """`merge_adapters` of adapters that came without a tokenizer."""
    return merge_adapters(made, *args, tokenizer=tokenizer(family), **knobs)


def changes(made: Adapter) -> dict[str, Tensor]:
    """Site path -> weight change (d_out, d_in), in float64."""
    return {path: layer.delta().detach().double() for path, layer in made.body.layers.items()}


def summed(made: Sequence[Adapter], weights: Sequence[float]) -> dict[str, Tensor]:
    """Site path -> the weighted sum of the changes."""
    total: dict[str, Tensor] = {}
    for one, weight in zip(made, weights, strict=True):
        for path, change in changes(one).items():
            total[path] = total.get(path, torch.zeros_like(change)) + weight * change
    return total


def off(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """‖wanted - found‖ / ‖wanted‖ over all sites."""
    assert found.keys() == wanted.keys()
    lost = sum(float((wanted[path] - found[path]).square().sum()) for path in wanted)
    whole = sum(float(change.square().sum()) for change in wanted.values())
    return (lost / whole) ** 0.5


@torch.no_grad()
def logits(of: Adapter | Tuner, inputs: dict[str, Tensor]) -> Tensor:
    """The logits of an adapter, or of a tuner's."""
    if isinstance(of, Tuner):
        return run(of._bank, of._bank.frame(of.adapter.name), inputs).logits
    bank = Bank(of.shell.backbone)
    bank.add(of)
    found: Tensor = run(bank, bank.frame(of.name), inputs).logits
    bank.remove(of.name)
    return found
