"""Good folders of every kind for the doctor, and hands to damage them with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petune.storage import adapter_file, checkpoint, container, strict_json
from tests.storage import making

ADAPTER, CONFIG, EXPORT = "adapter_model.safetensors", "adapter_config.json", "petune.json"
A, B = (f"base_model.model.bert.encoder.layer.0.attention.self.query.lora_{part}.weight" for part in "AB")
HEAD = "base_model.model.classifier.weight"
OWN_A = "base_model.model.bert.layer.0.q.lora_A.weight"


def own(place: Path) -> Path:
    """An adapter by petune."""
    return adapter_file.write(place / "own", making.small())


def peft(place: Path) -> Path:
    """A LoRA with its head, as peft lays it out."""
    folder = place / "by-peft"
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    tensors = {
        A: torch.randn(2, 8, generator=draw),
        B: torch.randn(8, 2, generator=draw),
        HEAD: torch.randn(3, 8, generator=draw),
        HEAD.replace("weight", "bias"): torch.randn(3, generator=draw),
    }
    (folder / ADAPTER).write_bytes(container.pack(tensors, {"format": "pt"}))
    said = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["query"],
        "modules_to_save": ["classifier"],
        "base_model_name_or_path": "some/bert",
        "bias": "none",
        "peft_version": "0.21.2",
    }
    (folder / CONFIG).write_text(json.dumps(said))
    return folder


def prefix(place: Path) -> Path:
    """A prefix, as peft lays it out."""
    folder = place / "prefix"
    folder.mkdir(parents=True)
    (folder / ADAPTER).write_bytes(container.pack({"prompt_embeddings": torch.ones(3, 2 * 2 * 8)}, {}))
    said = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "num_layers": 2}
    (folder / CONFIG).write_text(json.dumps({**said, "token_dim": 8}))
    return folder


def adapterhub(place: Path) -> Path:
    """A bottleneck adapter of the `adapters` library."""
    folder = place / "adapterhub"
    folder.mkdir(parents=True)
    inner = {"architecture": None, "reduction_factor": 16, "non_linearity": "relu"}
    said = {"config": inner, "model_type": "bert", "model_name": "some/bert", "name": "mood", "version": "adapters.1.2"}
    (folder / CONFIG).write_text(json.dumps(said))
    tensors = {"bert.encoder.layer.0.output.adapters.mood.adapter_down.0.weight": torch.ones(2, 8)}
    (folder / "adapter.safetensors").write_bytes(container.pack(tensors, {}))
    return folder


def run(place: Path) -> Path:
    """The output folder of a run with two checkpoints."""
    for step in (3, 6):
        state = {"epoch": 0, "identity": {"method": {"name": "lora"}, "task": {"name": "sequence-classification"}}}
        checkpoint.write(place / "run", step, {"learner/a": torch.full((2,), float(step))}, state, keep_last=5)
    return place / "run"


def model(place: Path) -> Path:
    """A transformers folder without a tokenizer."""
    folder = place / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    (folder / "model.safetensors").write_bytes(container.pack({"a": torch.ones(4, 2)}, {"format": "pt"}))
    return folder


def full(place: Path) -> Path:
    """The layout of a full fine-tuning by petune."""
    folder = model(place).rename(place / "full")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    made = {**making.small().manifest, "method": {"name": "full", "knobs": {}}, "weights_sha256": digest}
    (folder / EXPORT).write_text(strict_json.dumps(made))
    return folder


def store(place: Path) -> Path:
    """A folder of two adapters."""
    own(place / "store")
    peft(place / "store")
    return place / "store"


GOOD: dict[str, Callable[[Path], Path]] = {
    "petune adapter": own,
    "peft adapter": peft,
    "run": run,
    "transformers model": model,
    "full fine-tuning by petune": full,
    "store": store,
}
"""What the doctor calls it -> how to make it."""


def edit(path: Path, **changes: Any) -> None:
    """Changes fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def retensored(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the tensors of an adapter file, and nothing of its metadata."""
    tensors, metadata = container.unpack((folder / ADAPTER).read_bytes(), "it")
    change(tensors)
    (folder / ADAPTER).write_bytes(container.pack(tensors, metadata))


def resealed(folder: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    """Changes manifest and tensors of petune's, and makes every digest right again; the exports are then stale."""
    tensors, metadata = container.unpack((folder / ADAPTER).read_bytes(), "it")
    made = json.loads(metadata["petune"])
    change(made, tensors)
    made["digests"] = {name: container.digest(tensor) for name, tensor in tensors.items()}
    text = strict_json.dumps(made)
    seal = hashlib.sha256(text.encode()).hexdigest()
    (folder / ADAPTER).write_bytes(container.pack(tensors, {**metadata, "petune": text, "petune_sha256": seal}))
