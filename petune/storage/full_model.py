"""Full fine-tuning at rest: a plain transformers folder, with petune's facts beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from petune.lookup import find
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone, quiet
from petune.model.completing import base_of
from petune.model.safe_reading import SAFELY
from petune.storage import strict_json
from petune.storage.atomic import make_folder, write_file
from petune.storage.container import read_bytes
from petune.storage.full_facts import FACTS, check_weights, is_full_model, weights_digest
from petune.storage.manifest import validate
from petune.storage.migrations import migrated
from petune.storage.packing import pack, unpack
from petune.storage.stored import Stored


def write_full(folder: Path, adapter: Adapter, probe_logits: torch.Tensor, tokenizer: Any) -> Path:
    """Writes the whole model so that transformers loads it, and petune's facts last."""
    make_folder(folder)
    with quiet():
        adapter.shell.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    facts = {**pack(adapter, probe_logits).manifest, "weights_sha256": weights_digest(folder)}
    write_file(folder / FACTS, (strict_json.dumps(facts, indent=1) + "\n").encode())
    return folder


def read_full(folder: Path) -> tuple[Backbone, Adapter]:
    """The model and its labels, task and tokenizer settings.

    Raises:
        AdapterFileError: broken facts, other weights than those that were saved, or weights that do not fit the task.
    """
    manifest = migrated(strict_json.loads(read_bytes(folder / FACTS), source=str(folder / FACTS)))
    validate(manifest, source=str(folder / FACTS), beside=("weights_sha256",))
    check_weights(folder, manifest)
    # The folder is its own backbone now; the one it was trained from has other weights.
    manifest = {**manifest, "backbone": {**manifest["backbone"], "fingerprint": None}}
    backbone = Backbone.open(folder)
    blank = Stored(manifest)
    auto_class = _task_class(blank)
    with quiet():
        # A head learns in float32 also on a narrower backbone; the default would round it to the backbone's type.
        wide = torch.promote_types(backbone.dtype, torch.float32)
        model = getattr(transformers, auto_class).from_pretrained(folder, dtype=wide, **SAFELY)
    base, known = base_of(model), backbone.model.state_dict().keys()
    # An encoder alone (Whisper's classifier) has its head beside its layers.
    inner = {name: tensor for name, tensor in base.state_dict().items() if base is not model or name in known}
    shared = {id(p) for name, p in base.named_parameters() if name in inner}
    prefix = f"{model.base_model_prefix}."
    outside = {
        name: p
        for name, p in model.named_parameters(remove_duplicate=False)
        if name not in inner and not name.startswith(prefix)
    }
    # Without the parts that are another name of weights in the base model: a tied lm_head.
    parts = {name.partition(".")[0] for name, p in outside.items() if id(p) not in shared}
    once: dict[tuple[str, int], str] = {}
    for name, p in outside.items():
        once.setdefault((name.partition(".")[0], id(p)), name)
    outer = {name: outside[name].detach() for (part, _), name in once.items() if part in parts}
    adapter = unpack(Stored(manifest, {"": inner}, outer), backbone)
    adapter.facts["notices"] = []
    return adapter.shell.backbone, adapter


def _task_class(stored: Stored) -> str:
    said = stored.manifest
    task = find("tasks", said["task"]["name"])(**{**said["task"]["knobs"], "labels": tuple(said["labels"])})
    return str(task.auto_class)


__all__ = ["is_full_model", "read_full", "write_full"]
