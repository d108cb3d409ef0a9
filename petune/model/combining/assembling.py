"""From adapters to what a combined one is made of: a LoRA recipe, its layers, a head and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from petune.errors import MergeError
from petune.methods.adalora import AdaLoRA
from petune.methods.base import Method
from petune.methods.head import Head
from petune.methods.lora import LoRA
from petune.model.adapter import Adapter
from petune.model.combining.cutting import Change, Sum, cuts_of
from petune.model.combining.heads import chosen_head, mean_head
from petune.model.combining.lowrank import Factors
from petune.model.combining.report import CombinationReport, SiteReport
from petune.model.combining.ways import Recipe


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
    changes = [{path: Change.of(layer) for path, layer in adapter.body.layers.items()} for adapter in adapters]
    density = recipe.share(len(adapters))
    cuts, sites = {}, {}
    sums = {path: _sum(path, changes, weights) for path in _paths(adapters)}
    for path, cut in cuts_of(sums, recipe, density).items():
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


def _sum(path: str, changes: Sequence[Mapping[str, Change]], weights: Sequence[float]) -> Sum:
    """What acts at a site; an adapter of rank 0 is as good as not there."""
    there = [(change[path], weight) for change, weight in zip(changes, weights, strict=True) if path in change]
    acting = [(part, weight) for part, weight in there if part.rank]
    shape = there[0][0].b.shape[0], there[0][0].a.shape[1]
    return Sum([part for part, _ in acting], [weight for _, weight in acting], shape)


def _paths(adapters: Sequence[Adapter]) -> list[str]:
    """Every site at which some adapter acts, in the order of the backbone."""
    there = dict.fromkeys(path for adapter in adapters for path in adapter.body.layers)
    if adapters[0].body.layers.keys() == there.keys():  # an adapter's own sites are in that order
        return list(there)
    order = {path: place for place, (path, _) in enumerate(adapters[0].shell.base.named_modules())}
    return sorted(there, key=lambda path: order.get(path, len(order)))


def _as_lora(adapters: Sequence[Adapter], cuts: Mapping[str, Factors]) -> tuple[Method, dict[str, dict[str, Tensor]]]:
    """The recipe that the factors follow, and the layers themselves."""
    if not cuts:
        return Head(), {}
    ranks = {path: factors.rank for path, factors in cuts.items()}
    method = _own(adapters, ranks) or _scaled_by_one(adapters, ranks)
    return method, {
        path: {"lora_A": _narrow(factors.a), "lora_B": _narrow(factors.b, method.scale(factors.rank))}
        for path, factors in cuts.items()
    }


def _narrow(tensor: Tensor, scale: float = 1.0) -> Tensor:
    """As it is kept, in memory of its own; `scale` is the factor that its layer will have."""
    return (tensor if scale == 1.0 else tensor / scale).to(torch.float32, memory_format=torch.contiguous_format)


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
