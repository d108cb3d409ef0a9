"""Reading a folder that peft wrote, without importing peft: its tensors and its configuration as a `Stored`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from petune.errors import AdapterFileError, ConfigError
from petune.lookup import near
from petune.storage import container, manifest, peft_lora, peft_prefix, strict_json
from petune.storage.names import check_name
from petune.storage.peft_fields import kind_of
from petune.storage.stored import Stored

TASKS = {"SEQ_CLS": "sequence-classification", "TOKEN_CLS": "token-classification"}
"""peft's task types -> petune's tasks, those with a head."""
WRITING = {"CAUSAL_LM": "causal-lm", "SEQ_2_SEQ_LM": "seq2seq-lm"}
"""The same for language models, whose head is the backbone's."""

_PREFIXES = [
    "bert",
    "roberta",
    "distilbert",
    "deberta",
    "electra",
    "albert",
    "mpnet",
    "model",
    "transformer",
    "backbone",
    "base_model",
    "camembert",
    "xlm_roberta",
    "longformer",
    "funnel",
    "xlnet",
    "flaubert",
    "ernie",
    "big_bird",
    "gpt_neox",
]
OUTPUTS = ("out_proj.weight", "classifier.weight", "score.weight")
"""How the names of a head's last map end."""
MOST_MODULES = 100
"""Modules of a head in one configuration."""


def from_peft(folder: str | Path, *, config: Any = None, prefix: str | None = None) -> Stored:
    """An adapter that peft wrote, as petune keeps it.

    LoRA and AdaLoRA (folded: A <- diag(E) A, with its scale) become `lora`, a prefix on a rotary family becomes
    `prefix`, and what only peft's modules compute (DoRA, IA3, VeRA, OFT ...) becomes the long tail.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        config: the backbone's transformers configuration; None: that of `base_model_name_or_path`, if it is at hand.
        prefix: where the backbone sits in the shell (`base_model_prefix`); None: from `config`, or from the names.

    Raises:
        AdapterFileError: anything that would change the result and cannot be honoured: an unknown field, a task of
            another kind, a tensor that belongs to nothing, a pickle.
    """
    folder = Path(folder)
    source = folder / "adapter_config.json"
    said = strict_json.loads(container.read_bytes(source), source=str(source))
    kind = kind_of(said, str(source))
    tensors = _tensors(folder)
    config = config if config is not None else _base_config(said)
    prefix = prefix if prefix is not None else _prefix(tensors, config)
    if said.get("task_type") in WRITING and not any(name.startswith(f"base_model.model.{prefix}.") for name in tensors):
        prefix = ""  # T5's language model has its backbone's parts in no module of their own
    head, own = _split(tensors, said, str(folder))
    notices: list[str] = []
    task = _task(said, head, str(source), notices)
    if kind == "peft":
        knobs, layers = _long_tail(said, own, prefix)
    elif kind == "prefix":
        knobs, layers = peft_prefix.layers(said, own, config, str(source))
    else:
        knobs, layers = peft_lora.layers(said, own, prefix, config, str(source), notices)
    labels = _labels(head, str(folder), notices) if task in TASKS.values() else []
    made = manifest.build(
        name=_name(folder),
        task={"name": task, "knobs": _task_knobs(task, labels)},
        labels=labels,
        method={"name": "lora" if kind == "adalora" else kind, "knobs": knobs},
        trained_as=kind,
        backbone=_backbone(said, config, prefix),
        head_modules=_head_modules(head, said),
    )
    return Stored(made, layers, head, tuple(notices))


def _name(folder: Path) -> str:
    """The folder's name, where it can be an adapter's."""
    try:
        return check_name(folder.resolve().name)
    except ConfigError:
        return "default"


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / "adapter_model.safetensors"
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise AdapterFileError(
            f"{folder} holds its weights as a pickle, adapter_model.bin.",
            expected="adapter_model.safetensors: a pickle can run code, so petune never opens one.",
            fix="Load it in peft and call save_pretrained(..., safe_serialization=True).",
        )
    return container.unpack(container.read_bytes(path, limit=container.MAX_FILE_BYTES, tensors=True), str(path))[0]


def _base_config(said: Mapping[str, Any]) -> Any:
    """The backbone's configuration, when it is on this machine; a name is never looked up in the network."""
    name = said.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return None
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception:  # whatever stands there; the tensors have to tell then
        return None


def _prefix(tensors: Mapping[str, Tensor], config: Any) -> str:
    """`base_model_prefix`: the model class knows it; without a configuration the common names have to do."""
    firsts = {
        name.removeprefix("base_model.model.").split(".")[0] for name in tensors if ".lora_" in name or "." in name
    }
    if config is not None:
        from transformers import MODEL_MAPPING

        made = MODEL_MAPPING.get(type(config), None)
        named = getattr(made[0] if isinstance(made, tuple) else made, "base_model_prefix", "")
        return named if named in firsts or "prompt_embeddings" in tensors else ""
    sites = {name.removeprefix("base_model.model.") for name in tensors if name.startswith("base_model.model.")}
    for first in _PREFIXES:
        if any(
            re.match(rf"{first}\.(encoder|decoder|layers?|h|transformer|block|embeddings)\.", site) for site in sites
        ):
            # DistilBERT alone, without a shell, starts with `transformer.layer`.
            return (
                "" if first == "transformer" and any(site.startswith("transformer.layer.") for site in sites) else first
            )
    return ""


def _split(
    tensors: Mapping[str, Tensor], said: Mapping[str, Any], source: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The head's tensors (by name in the shell), and all others.

    peft keeps the head under plain module names; a plain name that no `modules_to_save` covers would be written
    over the backbone's weights, so `peft_lora` and the long tail refuse it.
    """
    modules = [
        *(said.get("modules_to_save") or ()),
        *(("classifier", "score") if said.get("task_type") in TASKS else ()),
    ]
    if len(modules) > MOST_MODULES:  # each is held against each tensor
        raise AdapterFileError(
            f"{source}: modules_to_save holds {len(modules)} names.", expected=f"At most {MOST_MODULES} are read."
        )
    if not all(isinstance(module, str) for module in modules):
        raise AdapterFileError(f"{source}: modules_to_save holds other things than names.")
    head: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("base_model.").removeprefix("model.")
        plain = name.removeprefix("base_model.model.") if name.startswith("base_model.model.") else plain
        plain = plain.replace(".modules_to_save.", ".")
        if any(_owns(module, plain) for module in modules):
            head[plain] = tensor
        else:
            own[name] = tensor
    # peft itself adds `classifier` and `score` for its tasks, whichever of them the model has.
    named = [
        module for module in said.get("modules_to_save") or () if module not in ("classifier", "score") or not head
    ]
    lone = next((module for module in named if not any(_owns(module, name) for name in head)), "")
    if lone:
        raise AdapterFileError(
            f"{source}: modules_to_save names {lone!r}, but the folder holds no tensor of it.",
            fix=near(lone, {name.split(".")[0] for name in head}) if head else "Save the adapter again in peft.",
        )
    return head, own


def _owns(module: str, name: str) -> bool:
    """Whether peft's suffix rule for modules puts this tensor into the module."""
    return f".{module}." in f".{name}"


def _task(said: Mapping[str, Any], head: Mapping[str, Tensor], source: str, notices: list[str]) -> str:
    said_type, known = said.get("task_type"), {**TASKS, **WRITING}
    if said_type in known:
        return known[said_type]
    if said_type is not None:
        raise AdapterFileError(
            f"{source} is for the task {said_type}, which comes with another release of petune.",
            expected=f"{' or '.join(known)}.",
        )
    if not head:
        raise AdapterFileError(
            f"{source} names no task, and the folder holds no head.",
            expected="An adapter with its classification head.",
            fix="Save it in peft with task_type='SEQ_CLS', or the head in modules_to_save.",
        )
    shell = (said.get("auto_mapping") or {}).get("base_model_class", "")
    task = "token-classification" if "TokenClassification" in str(shell) else "sequence-classification"
    notices.append(f"{source} names no task; it is taken for {task}.")
    return task


def _labels(head: Mapping[str, Tensor], source: str, notices: list[str]) -> list[str]:
    """peft stores no label names: LABEL_0 ... as many as the head's last map has rows; none for a regression."""
    ends = [
        (name, t) for ending in OUTPUTS for name, t in head.items() if f".{name}".endswith(f".{ending}") and t.ndim == 2
    ]
    if not ends:
        raise AdapterFileError(
            f"{source} holds no classification head that petune knows.",
            expected=f"A tensor that ends with {', '.join(OUTPUTS)}.",
            fix="Save it in peft with the head in modules_to_save.",
        )
    count = ends[0][1].shape[0]
    if count == 1:
        notices.append("The head has a single output, so it is taken for a regression.")
        return []
    labels = [f"LABEL_{i}" for i in range(count)]
    notices.append(f"peft stores no label names, so the classes are called {labels[0]} to {labels[-1]}.")
    return labels


def _task_knobs(task: str, labels: list[str]) -> dict[str, Any]:
    """What petune's task would have learnt from a table; peft knows of no columns."""
    if task == "causal-lm":
        return {"text": "text"}
    if task == "seq2seq-lm":
        return {"source": "source", "target": "target"}
    if task == "token-classification":
        return {"tokens": "tokens", "tags": "tags", "scheme": "none"}
    problem = "single_label_classification" if labels else "regression"
    return {"text": "text", "label": "label", "problem_type": problem}


def _backbone(said: Mapping[str, Any], config: Any, prefix: str) -> dict[str, Any]:
    name = said.get("base_model_name_or_path")
    return {
        "id": name if isinstance(name, str) and not Path(name).exists() else None,
        "path_or_id": name if isinstance(name, str) else None,
        "model_type": getattr(config, "model_type", None),
        "prefix": prefix,
        "config": manifest.small_config(config) if config is not None else {},
    }


def _head_modules(head: Mapping[str, Tensor], said: Mapping[str, Any]) -> list[str]:
    """The modules that peft kept, as full paths."""
    wanted = [*(said.get("modules_to_save") or ()), "classifier", "score"]
    found = []
    for name in head:
        parts = name.split(".")
        ends = [".".join(parts[: i + 1]) for i in range(len(parts) - 1)]
        found.append(next(path for path in ends if any(f".{path}".endswith(f".{module}") for module in wanted)))
    return list(dict.fromkeys(found))


def _long_tail(
    said: Mapping[str, Any], own: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """peft's configuration and tensors, with paths in the backbone in place of paths in the shell."""
    dotted = f"base_model.model.{prefix}." if prefix else "base_model.model."
    named = {}
    for name, tensor in own.items():
        inner = name.startswith("base_model.model.")
        if (inner and not name.startswith(dotted)) or not name.startswith("base_model."):
            raise AdapterFileError(f"The tensor {name!r} is outside of the backbone {prefix!r} and of the head.")
        named[f"model.{name.removeprefix(dotted)}" if inner else name.removeprefix("base_model.")] = tensor
    config = {**said, "modules_to_save": None, "task_type": None, "inference_mode": False, "auto_mapping": None}
    for key in ("target_modules", "feedforward_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = [part.removeprefix(f"{prefix}.") if prefix else part for part in config[key]]
    return {"config": config}, {"": named}
