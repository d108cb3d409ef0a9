"""Full fine-tuning at rest: a plain transformers folder, with petune's facts beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import transformers

from petune.errors import AdapterFileError
from petune.lookup import find
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone, quiet
from petune.model.completing import base_of
from petune.storage import strict_json
from petune.storage.atomic import write_file
from petune.storage.manifest import validate
from petune.storage.packing import pack, unpack
from petune.storage.stored import Stored

FACTS, WEIGHTS = "petune.json", "model.safetensors"


def is_full_model(folder: Path) -> bool:
    """Whether a folder holds a full fine-tuning saved by petune."""
    return (folder / FACTS).is_file() and (folder / WEIGHTS).is_file()


def write_full(folder: Path, adapter: Adapter, probe_logits: torch.Tensor, tokenizer: Any) -> Path:
    """Writes the whole model so that transformers loads it, and petune's facts last."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        adapter.shell.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    facts = {**pack(adapter, probe_logits).manifest, "weights_sha256": _sha256(folder / WEIGHTS)}
    write_file(folder / FACTS, (strict_json.dumps(facts, indent=1) + "\n").encode())
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_full(folder: Path) -> tuple[Backbone, Adapter]:
    """The model and its labels, task and tokenizer settings.

    Raises:
        AdapterFileError: broken facts, other weights than those that were saved, or weights that do not fit the task.
    """
    manifest = strict_json.loads((folder / FACTS).read_bytes(), source=str(folder / FACTS))
    validate(manifest, source=str(folder / FACTS))
    if manifest.get("weights_sha256") != _sha256(folder / WEIGHTS):
        raise AdapterFileError(
            f"{folder / WEIGHTS} is not the file that was saved with {FACTS}.",
            expected="Its sha256 is recorded there.",
            fix="Save the model again, or load the folder with transformers alone.",
        )
    # The folder is its own backbone now; the one it was trained from has other weights.
    manifest = {**manifest, "backbone": {**manifest["backbone"], "fingerprint": None}}
    backbone = Backbone.open(folder)
    blank = Stored(manifest)
    auto_class = _task_class(blank)
    with quiet():
        # A head learns in float32 also on a narrower backbone; the default would round it to the backbone's type.
        wide = torch.promote_types(backbone.dtype, torch.float32)
        model = getattr(transformers, auto_class).from_pretrained(folder, dtype=wide)
    inner = base_of(model).state_dict()
    prefix = f"{model.base_model_prefix}."
    # Without those that are another name of a weight in the base model: a tied lm_head.
    outer = {
        name: p.detach() for name, p in model.named_parameters() if name not in inner and not name.startswith(prefix)
    }
    adapter = unpack(Stored(manifest, {"": inner}, outer), backbone)
    adapter.facts["notices"] = []
    return adapter.shell.backbone, adapter


def _task_class(stored: Stored) -> str:
    return str(find("tasks", stored.manifest["task"]["name"]).auto_class)
