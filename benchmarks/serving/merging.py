"""SVD merge of four adapters into one of the same rank: `merge_adapters(how="svd")` beside `add_weighted_adapter`.

The backbone has BERT-base's shape (12 blocks, d = 768, random weights, a small vocabulary: merging reads none of them),
the adapters sit at query and value, r = 8. petune's time is that of the whole call, up to a Tuner that could be
saved; what peft adds is taken out again between the calls, untimed. The products of both are compared at every site.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from benchmarks.serving import making
from benchmarks.serving.claims import at_least, hold
from benchmarks.serving.routing import OTHERS
from benchmarks.serving.settings import Settings
from benchmarks.serving.timing import once, rotated, summary
from petune.combining import merge_adapters
from petune.methods.lora import LoRA
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone

PEFT_OVER_PETUNE = 100.0
COUNT, MOST_REPEATS = 4, 9
WEIGHTS = [0.4, 0.3, 0.2, 0.1]


def run(settings: Settings) -> dict[str, Any]:
    """Both arms in turn."""
    bare = making.twin(wide(settings))
    home = Backbone.open(making.twin(bare))
    adapters = making.random_adapters(home, COUNT, making.TARGETS["query,value"])
    theirs = making.peft_model(making.twin(bare), adapters)
    names = [adapter.name for adapter in adapters]
    tokenizer = object()  # only kept, for texts that nobody sends here

    def ours() -> Adapter:
        return merge_adapters(adapters, WEIGHTS, "svd", rank=making.RANK, tokenizer=tokenizer).adapter

    def peft() -> None:
        theirs.add_weighted_adapter(names, WEIGHTS, "merged", combination_type="svd", svd_rank=making.RANK)

    arms = {"petune": ours, "peft": peft}
    kept: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(min(settings.repeats, MOST_REPEATS) + 1):
        for arm in rotated(list(arms), number):
            seconds = once(arms[arm])
            if number:
                kept[arm].append(seconds)
        differ = difference(ours(), theirs)
        theirs.delete_adapter("merged")
    told = {arm: summary(seconds) for arm, seconds in kept.items()}
    where = {"width": settings.merged_width, "sites": len(adapters[0].body.sites), "adapters": COUNT}
    cells = [{**where, "milliseconds": told, "differences": differ}]
    return {"cells": cells, "claims": claims(cells)}


def wide(settings: Settings) -> BertModel:
    """BERT-base from its configuration, with random weights."""
    width = settings.merged_width
    heads = max(1, width // 64)
    return BertModel(
        BertConfig(
            vocab_size=1000,
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=heads,
            num_hidden_layers=settings.merged_blocks,
        )
    )


@torch.no_grad()
def difference(merged: Adapter, theirs: Any) -> float:
    """The largest difference of the two products at any site, relative to the largest entry there."""
    assert isinstance(merged.method, LoRA)
    found = 0.0
    for path, layer in merged.body.layers.items():
        product: Tensor = theirs.base_model.model.get_submodule(path).get_delta_weight("merged")
        found = max(found, float((layer.delta() - product).abs().max() / product.abs().max()))
    return hold("the merged products of petune and peft", found, OTHERS)


def claims(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """peft over petune."""
    cell = cells[0]
    what = f"SVD merge of {cell['adapters']} adapters, d = {cell['width']}, {cell['sites']} sites: peft over petune"
    medians = {arm: told["median"] for arm, told in cell["milliseconds"].items()}
    return [at_least(what, PEFT_OVER_PETUNE, medians["peft"] / medians["petune"])]
