"""Every way of merging adapters beside peft's, in time and in truth: `python -m benchmarks.merging_adapters --write`.

Four LoRA adapters (r = 8, random weights) at query and value of a BERT of base width. A way is timed as the whole
call: petune's up to a Tuner, peft's `add_weighted_adapter` with the layers it makes (taken out again, untimed).
Arms take turns; figures are medians. Errors are ‖truth - result‖ / ‖truth‖ over all sites. For ways that sum, the truth
is the weighted sum of the products; for those that prune, it is the pruned matrix before it is compressed, which peft
keeps to itself.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from benchmarks.machine import write_result
from petune import LoRA, SequenceClassification, Tuner, merge_adapters
from petune.data.sources import read
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.combining.ways import WAYS

THREADS, RANK = 2, 8
WEIGHTS = (0.4, 0.3, 0.2, 0.1)
DENSITY = 0.3
THEIRS = {
    "linear": "linear",
    "cat": "cat",
    "svd": "svd",
    "magnitude_prune": "magnitude_prune_svd",
    "ties": "ties_svd",
    "dare_linear": "dare_linear_svd",
    "dare_ties": "dare_ties_svd",
}
"""peft's name of the same way; its `linear` sums A and B apart from each other, the others take products."""


def adapters_on(home: Backbone) -> list[Adapter]:
    """Adapters of which every tensor has an effect."""
    task = SequenceClassification().learn(read([{"text": word, "label": word} for word in ("no", "yes")]))
    made = []
    for place in range(len(WEIGHTS)):
        adapter = Adapter.make(home, f"a{place}", LoRA(rank=RANK, targets=("query", "value")), task)
        for parameter in adapter.body.module().parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        made.append(adapter)
    return made


@torch.no_grad()
def in_peft(model: BertModel, adapters: Sequence[Adapter]) -> Any:
    """The same adapters in peft's layers."""
    theirs: Any = None
    for adapter in adapters:
        config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=["query", "value"])
        if theirs is None:
            theirs = peft.get_peft_model(model, config, adapter_name=adapter.name)
        else:
            theirs.add_adapter(adapter.name, config)
        for path, layer in adapter.body.layers.items():
            inside = theirs.base_model.model.get_submodule(path)
            for part in ("lora_A", "lora_B"):
                getattr(inside, part)[adapter.name].weight.copy_(layer.get_parameter(part))
    return theirs


def measured(how: str, adapters: list[Adapter], theirs: Any, repeats: int) -> dict[str, Any]:
    """One way: the seconds of both, and their errors."""
    pruning = WAYS[how].prune != "none"
    ours_knobs: dict[str, Any] = {"density": DENSITY} if pruning else {}
    peft_knobs: dict[str, Any] = {"density": DENSITY} if pruning else {}
    if pruning or how == "svd":
        ours_knobs["rank"] = peft_knobs["svd_rank"] = RANK
    names = [adapter.name for adapter in adapters]

    def ours() -> Tuner:
        # Nobody sends texts here, so any object does for a tokenizer.
        return merge_adapters(adapters, WEIGHTS, how, tokenizer=object(), **ours_knobs)

    def peft_way() -> None:
        theirs.add_weighted_adapter(names, list(WEIGHTS), "merged", combination_type=THEIRS[how], **peft_knobs)

    seconds: dict[str, list[float]] = {"petune": [], **({"peft": []} if how in THEIRS else {})}
    for repeat in range(repeats + 1):  # the first one warms up
        for arm in seconds:
            started = perf_counter()
            (ours if arm == "petune" else peft_way)()
            if repeat:
                seconds[arm].append(perf_counter() - started)
            if arm == "peft" and repeat < repeats:
                theirs.delete_adapter("merged")
    both = ours()
    told: dict[str, Any] = {f"{arm}_milliseconds": 1e3 * statistics.median(found) for arm, found in seconds.items()}
    told["petune_relative_error"] = both.report.relative_error if pruning else distance(adapters, both.adapter)
    if how in THEIRS:
        told["peft_over_petune"] = told["peft_milliseconds"] / told["petune_milliseconds"]
        if not pruning:
            told["peft_relative_error"] = distance(adapters, theirs)
        theirs.delete_adapter("merged")
    return told


@torch.no_grad()
def distance(adapters: Sequence[Adapter], merged: Any) -> float:
    """‖sum - result‖ / ‖sum‖ over all sites, of an adapter of petune's or of peft's model."""
    lost = whole = 0.0
    for path in adapters[0].body.layers:
        total: Tensor = sum(w * a.body.layers[path].delta().double() for a, w in zip(adapters, WEIGHTS, strict=True))
        if isinstance(merged, Adapter):
            found = merged.body.layers[path].delta()
        else:
            found = merged.base_model.model.get_submodule(path).get_delta_weight("merged")
        lost, whole = lost + float((total - found).square().sum()), whole + float(total.square().sum())
    return (lost / whole) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/merging_adapters.json")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=given.width, intermediate_size=4 * given.width,
        num_attention_heads=max(1, given.width // 64), num_hidden_layers=given.blocks,
    )  # fmt: skip
    model, twin = BertModel(config).eval(), BertModel(config).eval()
    adapters = adapters_on(Backbone.open(model))
    theirs, ways = in_peft(twin, adapters), {}
    for how in WAYS:
        ways[how] = measured(how, adapters, theirs, given.repeats)
        print(how, {name: float(f"{value:.3g}") for name, value in ways[how].items()}, flush=True)
    sizes = {"width": given.width, "rank": RANK, "adapters": len(adapters), "sites": 2 * given.blocks}
    payload = {"sizes": sizes, "density": DENSITY, "repeats": given.repeats, "ways": ways}
    if given.write:
        print(write_result("merging_adapters", payload))


if __name__ == "__main__":
    main()
