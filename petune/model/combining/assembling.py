"""From adapters to what a combined one is made of: a LoRA recipe, its layers, a head and a report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from petune.errors import MergeError
from petune.methods.adalora import AdaLoRA
from petune.methods.base import AdapterLayer, Method
from petune.methods.head import Head
from petune.methods.lora import LoRA, LoRALayer
from petune.model.adapter import Adapter
from petune.model.combining.compressing import compressed
from petune.model.combining.heads import chosen_head, mean_head
from petune.model.combining.lowrank import Cut, Factors, stacked, truncated
from petune.model.combining.report import CombinationReport, SiteReport
from petune.model.combining.ways import Recipe, multiplied_out

EXACT = ("linear", "task_arithmetic")
"""Ways that cut nothing unless a rank is given."""


class Combination(NamedTuple):
    """What the combined adapter is made of.

    Args:
        chosen: the place of the adapter whose task, labels and tokenizer it has.
        layers: site path -> `lora_A` (R, d_in) and `lora_B` (d_out, R).
    """

    chosen: int
    method: Method
    layers: dict[str, dict[str, Tensor]]
    head: dict[str, Tensor]
    report: CombinationReport


def refuse(adapter: Adapter) -> None:
    """Raises MergeError for an adapter that is no change of weights of petune's kind."""
    if adapter.method.residence == "shared" and adapter.method.mergeable:
        return
    why = {
        "shared": "has no weight change",
        "sole": "replaces modules by peft's own",
        "private": "is a whole model",
    }[adapter.method.residence]
    raise MergeError(
        f"{adapter.name!r} cannot be merged with others: the method {type(adapter.method).__name__} {why}.",
        expected="LoRA, AdaLoRA and head can be merged with each other.",
        fix="Serve it beside the others, with AdaptedModel." if adapter.method.residence == "shared" else "",
    )


@torch.no_grad()
def combine(
    adapters: Sequence[Adapter], weights: Sequence[float], recipe: Recipe, head: str | int | None
) -> Combination:
    """Combines adapters of one backbone.

    Args:
        weights: one per adapter, finite.
        head: whose head, task and labels to keep; None: the weighted mean of heads that answer alike.

    Raises:
        MergeError: an adapter without a weight change.
        AdapterError: heads that answer in other labels.
        ConfigError: a head that there is not.
    """
    for adapter in adapters:
        refuse(adapter)
    chosen = 0 if head is None else chosen_head(adapters, head)
    kept = mean_head(adapters, weights) if head is None else adapters[chosen].head()
    changes = [{path: factors_of(layer) for path, layer in adapter.body.layers.items()} for adapter in adapters]
    density = recipe.share(len(adapters))
    cuts, sites = {}, {}
    for path in _paths(adapters):
        there = [(change[path], weight) for change, weight in zip(changes, weights, strict=True) if path in change]
        cut = _at_site(path, there, recipe, density)
        error = (cut.lost / cut.whole) ** 0.5 if cut.whole else 0.0
        ranks = tuple(change[path].rank if path in change else 0 for change in changes)
        cuts[path], sites[path] = cut.factors, SiteReport(ranks, cut.factors.rank, error, cut.whole)
    knobs = {
        "rank": recipe.rank,
        "density": None if recipe.way.prune == "none" else density,
        "majority_sign": recipe.majority_sign,
        "seed": recipe.seed if recipe.way.prune == "random" else None,
    }
    report = CombinationReport(
        recipe.how, tuple(adapter.name for adapter in adapters), tuple(weights), sites,
        {name: value for name, value in knobs.items() if value is not None},
        None if head is None else adapters[chosen].name,
    )  # fmt: skip
    method, layers = _as_lora(adapters, cuts)
    # The new adapter takes these tensors over, so none of them may be another's.
    return Combination(chosen, method, layers, {name: tensor.clone() for name, tensor in kept.items()}, report)


def factors_of(layer: AdapterLayer) -> Factors:
    """A layer's weight change as a product, with the scale in B, float64 on the CPU; one that knows no factors is
    multiplied by the identity."""
    plain = layer.folded()
    if isinstance(plain, LoRALayer):
        return Factors(_wide(plain.lora_B) * plain.scale, _wide(plain.lora_A))
    change = _wide(plain.delta())
    d_out, d_in = change.shape
    one = torch.eye(min(d_out, d_in), dtype=change.dtype)
    return Factors(change, one) if d_in <= d_out else Factors(one, change)


def _wide(tensor: Tensor) -> Tensor:
    """Sums are made in float64 on the CPU: the same bits on every machine, and the factors are small."""
    return tensor.detach().to("cpu", torch.float64)


def _at_site(path: str, there: list[tuple[Factors, float]], recipe: Recipe, density: float) -> Cut:
    """The result at one site, from the adapters that act there; one of rank 0 is as good as not there."""
    shape = there[0][0].b.shape[0], there[0][0].a.shape[1]
    parts = [part for part, _ in there if part.rank]
    weights = [weight for part, weight in there if part.rank]
    if not parts:
        return Cut(Factors(torch.zeros(shape[0], 0), torch.zeros(0, shape[1])), 0.0, 0.0)
    largest = max(part.rank for part in parts)
    # Where a single adapter acts there is no sum: its own factors are the result.
    if recipe.how == "cat" or (recipe.how in EXACT and recipe.rank is None and len(parts) == 1):
        both = stacked(parts, weights)
        return Cut(both, 0.0, _squared_norm(both))
    if recipe.way.prune == "none":
        return truncated(parts, weights, largest if recipe.how == "svd" and recipe.rank is None else recipe.rank)
    generator = _generator(recipe.seed, path)
    matrix = multiplied_out(parts, weights, recipe, density, generator)
    return compressed(matrix, recipe.rank or largest, sum(part.rank for part in parts), generator)


def _squared_norm(product: Factors) -> float:
    """‖B A‖², from two small matrices."""
    return float(((product.b.T @ product.b) * (product.a @ product.a.T)).sum().clamp_min(0.0))


def _generator(seed: int, path: str) -> torch.Generator:
    """A generator of this site's own, so that no other site changes what is drawn here."""
    drawn = hashlib.sha256(f"{seed} {path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(drawn[:8], "little"))


def _paths(adapters: Sequence[Adapter]) -> list[str]:
    """Every site at which some adapter acts, in the order of the backbone."""
    order = {path: place for place, (path, _) in enumerate(adapters[0].shell.base.named_modules())}
    there = dict.fromkeys(path for adapter in adapters for path in adapter.body.layers)
    return sorted(there, key=lambda path: order.get(path, len(order)))


def _as_lora(adapters: Sequence[Adapter], cuts: Mapping[str, Factors]) -> tuple[Method, dict[str, dict[str, Tensor]]]:
    """The recipe that the factors follow, and the layers themselves."""
    if not cuts:
        return Head(), {}
    ranks = {path: factors.rank for path, factors in cuts.items()}
    method = _own(adapters, ranks) or _scaled_by_one(adapters, ranks)
    return method, {
        path: {"lora_A": _narrow(factors.a), "lora_B": _narrow(factors.b / method.scale(factors.rank))}
        for path, factors in cuts.items()
    }


def _narrow(tensor: Tensor) -> Tensor:
    """As it is kept."""
    return tensor.float().contiguous()


def _own(adapters: Sequence[Adapter], ranks: Mapping[str, int]) -> LoRA | None:
    """The recipe of an adapter that is alone and keeps its ranks: then its tensors stay what they were."""
    method = adapters[0].method
    if len(adapters) > 1 or not isinstance(method, LoRA):
        return None
    return method if all(method.ranks.get(path, method.rank) == rank for path, rank in ranks.items()) else None


def _scaled_by_one(adapters: Sequence[Adapter], ranks: Mapping[str, int]) -> LoRA:
    """A recipe with a rank per site and a scale of 1, which leaves every scale to the factors."""
    used = [rank for rank in ranks.values() if rank] or [1]
    common = max(used, key=used.count)
    odd = {path: rank for path, rank in ranks.items() if rank != common}
    return LoRA(rank=common, alpha=None, ranks=odd, **_where(adapters, ranks))


def _where(adapters: Sequence[Adapter], sites: Mapping[str, int]) -> dict[str, Any]:
    """The knobs that say where: those of an adapter that acts at all of the sites, else the path of each."""
    for adapter in adapters:
        method = adapter.method
        if isinstance(method, LoRA | AdaLoRA) and adapter.body.layers.keys() == sites.keys():
            return {name: getattr(method, name) for name in ("targets", "layers", "top", "modules")}
    return {"modules": tuple(sites)}
