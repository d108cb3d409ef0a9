"""Full fine-tuning at rest: a plain transformers folder, with petune's facts beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from petune.errors import AdapterFileError
from petune.lookup import find
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone, quiet
from petune.storage.atomic import write_file
from petune.storage.packing import pack, unpack
from petune.storage.stored import Stored

FACTS = "petune.json"


def is_full_model(folder: Path) -> bool:
    """Whether a folder holds a full fine-tuning saved by petune."""
    return (folder / FACTS).is_file() and (folder / "model.safetensors").is_file()


def write_full(folder: Path, adapter: Adapter, probe_logits: torch.Tensor, tokenizer: Any) -> Path:
    """Writes the whole model so that transformers loads it, and petune's facts last."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        adapter.shell.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    facts = pack(adapter, probe_logits).manifest
    write_file(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False).encode())
    return folder


def read_full(folder: Path) -> tuple[Backbone, Adapter]:
    """The model and its labels, task and tokenizer settings.

    Raises:
        AdapterFileError: weights that do not fit the task.
    """
    manifest = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    # The folder is its own backbone now; the one it was trained from has other weights.
    manifest = {**manifest, "backbone": {**manifest["backbone"], "fingerprint": None}}
    backbone = Backbone.open(folder)
    blank = Stored(manifest)
    auto_class = _task_class(blank)
    with quiet():
        # A head learns in float32 also on a narrower backbone; the default would round it to the backbone's type.
        wide = torch.promote_types(backbone.dtype, torch.float32)
        model = getattr(transformers, auto_class).from_pretrained(folder, dtype=wide)
    prefix = f"{model.base_model_prefix}."
    state = model.state_dict()
    inner = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    outer = {name: t for name, t in state.items() if not name.startswith(prefix)}
    if not outer:
        raise AdapterFileError(f"{folder} holds no head.", expected="A full fine-tuning saves backbone and head.")
    adapter = unpack(Stored(manifest, {"": inner}, outer), backbone)
    adapter.facts["notices"] = []
    return adapter.shell.backbone, adapter


def _task_class(stored: Stored) -> str:
    return str(find("tasks", stored.manifest["task"]["name"]).auto_class)
