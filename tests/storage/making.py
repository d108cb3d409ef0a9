"""Adapters at rest for the storage tests: shells of tiny families, random factors, and the logits they must give."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.storage import manifest
from petune.storage.stored import Stored
from tests import tiny

AUTO = {
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
}
SITES = {
    "bert": ("attention.self.query", "output.dense"),
    "roberta": ("attention.self.query", "attention.self.value"),
    "deberta-v2": ("attention.self.query_proj", "intermediate.dense"),
    "gpt2": ("attn.c_attn", "mlp.c_proj"),
    "llama": ("self_attn.q_proj", "mlp.down_proj"),
}
BLOCKS = {"gpt2": "h", "llama": "layers"}
PEFT_WARNS = "ignore:.*is_gradient_checkpointing.*:FutureWarning"
"""peft 0.21 asks transformers 5 for a name of old; every PeftModel does it."""


def shell(folder: Path, task: str = "sequence-classification", labels: int = 3) -> tuple[PreTrainedModel, list[str]]:
    """A task's model on a checkpoint, in eval mode, and the names of its head."""
    model, info = AUTO[task].from_pretrained(folder, num_labels=labels, output_loading_info=True)
    return model.eval(), sorted(info["missing_keys"])


def batch(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two rows of ids, the second one padded on the right."""
    ids = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(3))
    ids[1, 5:] = model.config.pad_token_id
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(model: nn.Module, given: Mapping[str, Tensor]) -> Tensor:
    """The logits, without gradients."""
    with torch.no_grad():
        return model(**given).logits


def sites(family: str) -> list[str]:
    """Site paths in a tiny backbone."""
    root = BLOCKS.get(family, "encoder.layer")
    return [f"{root}.{block}.{name}" for block in range(tiny.BLOCKS) for name in SITES[family]]


def factors(
    model: PreTrainedModel, paths: list[str], ranks: Mapping[str, int], rank: int
) -> dict[str, dict[str, Tensor]]:
    """Random LoRA factors at the sites."""
    made = {}
    for path in paths:
        weight = model.base_model.get_submodule(path).weight
        d_out, d_in = weight.T.shape if is_conv(model, path) else weight.shape
        r = ranks.get(path, rank)
        made[path] = {"lora_A": torch.randn(r, d_in) * 0.3, "lora_B": torch.randn(d_out, r) * 0.3}
    return made


def is_conv(model: PreTrainedModel, path: str) -> bool:
    """Whether the module keeps its weight as (d_in, d_out)."""
    return type(model.base_model.get_submodule(path)).__name__ == "Conv1D"


def stored(
    model: PreTrainedModel, head: list[str], folder: Path, method: str, knobs: dict[str, Any], layers: Any, **more: Any
) -> Stored:
    """An adapter at rest with random head tensors."""
    names = dict(model.named_parameters())
    task = next(task for task, auto in AUTO.items() if type(model) in auto._model_mapping.values())
    made = manifest.build(
        name="tiny",
        task={"name": task, "knobs": {}},
        labels=[f"label {i}" for i in range(model.config.num_labels)],
        method={"name": method, "knobs": knobs},
        backbone={
            "path_or_id": str(folder),
            "model_type": model.config.model_type,
            "prefix": model.base_model_prefix,
            "fingerprint": "0" * 64,
            "dtype": "float32",
            "config": manifest.small_config(model.config),
        },
        **more,
    )
    return Stored(made, layers, {name: torch.randn_like(names[name]) * 0.3 for name in head})


def lora(model: PreTrainedModel, head: list[str], folder: Path, family: str, **knobs: Any) -> Stored:
    """A random LoRA adapter at the family's sites."""
    knobs = {"rank": 4, "alpha": 8.0, "rslora": False, "dropout": 0.1, "ranks": {}, **knobs}
    layers = factors(model, sites(family), knobs["ranks"], knobs["rank"])
    transposed = [path for path in layers if is_conv(model, path)]
    return stored(model, head, folder, "lora", knobs, layers, transposed=transposed)


def by_hand(model: PreTrainedModel, adapter: Stored) -> PreTrainedModel:
    """The model with s B A added into its weights and the head put in place."""
    knobs, named = adapter.knobs, dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in adapter.head.items():
            named[name].copy_(tensor)
        for path, pair in adapter.layers.items():
            r = pair["lora_A"].shape[0]
            if r:
                scale = (knobs["alpha"] or r) / (math.sqrt(r) if knobs["rslora"] else r)
                change = pair["lora_B"] @ pair["lora_A"] * scale
                module = model.base_model.get_submodule(path)
                module.weight.add_(change.T if is_conv(model, path) else change)
    return model


@functools.cache
def small() -> Stored:
    """A LoRA adapter of two sites that needs no model; for tests of files alone."""
    torch.manual_seed(7)
    made = manifest.build(
        name="small",
        task={"name": "sequence-classification", "knobs": {"max_length": 32}},
        labels=["bad", "good"],
        method={"name": "lora", "knobs": {"rank": 2, "alpha": None, "rslora": False, "ranks": {"layer.1.q": 0}}},
        backbone={"prefix": "bert", "model_type": "bert", "path_or_id": "some/bert", "id": "some/bert"},
        seed=3,
        metrics={"accuracy": 0.75},
    )
    layers = {
        "layer.0.q": {"lora_A": torch.randn(2, 4), "lora_B": torch.randn(4, 2).to(torch.bfloat16)},
        "layer.1.q": {"lora_A": torch.empty(0, 4), "lora_B": torch.empty(4, 0, dtype=torch.bfloat16)},
    }
    return Stored(made, layers, {"classifier.weight": torch.randn(2, 4), "classifier.bias": torch.randn(2)})


def bottleneck(width: int, d: int = 4) -> dict[str, Tensor]:
    """The tensors of one bottleneck site, all ones."""
    shapes = {"down.weight": (width, d), "down.bias": (width,), "up.weight": (d, width), "up.bias": (d,)}
    return {name: torch.ones(shape) for name, shape in shapes.items()}
