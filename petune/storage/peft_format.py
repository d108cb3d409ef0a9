"""Writing peft's own format: `adapter_config.json`, and tensor names that peft and transformers find.

| method | in peft |
|---|---|
| lora (and adalora, folded) | LORA, a rank and an alpha per site where they differ |
| prefix on rotary families | PREFIX_TUNING, the keys turned by P positions (see `rotary`) |
| the long tail | the peft configuration itself |
| all others | nothing: peft has no such method |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from petune.model.own_rows import OWN_ROWS
from petune.storage import layout, rotary
from petune.storage.peft_reading import TASKS, WRITING, from_peft
from petune.storage.stored import Stored


def why_no_peft_config(stored: Stored) -> str | None:
    """Why peft cannot read this adapter, as one sentence; None when it can.

    Examples:
        >>> why_no_peft_config(Stored({"method": {"name": "bottleneck", "knobs": {}}}))
        "peft has no method that computes what 'bottleneck' computes."
    """
    if holds_rows(stored):
        return "The adapter holds rows for pieces of its own, and peft keeps a resized table of pieces instead."
    if stored.method == "lora" and not any(tensors["lora_A"].numel() for tensors in stored.layers.values()):
        return "Every site has rank 0, so there is no module for peft to change."
    if stored.method == "prefix":
        return _why_no_prefix(stored)
    if stored.method == "prompt-tuning":
        return "peft puts a prompt in front of an encoder's first piece and of padding, which computes something else."
    if stored.method not in ("lora", layout.PEFT):
        return f"peft has no method that computes what {stored.method!r} computes."
    if head_modules(stored) is None:
        return "A part of the head is a bare parameter of no module of its own, and peft saves whole modules."
    return None


def holds_rows(stored: Stored) -> bool:
    """Whether the adapter has rows for pieces of its own (markers), which no table of the backbone has room for."""
    return any(name.rpartition(".")[0].endswith(OWN_ROWS) for name in stored.head)


def adapter_config(stored: Stored) -> dict[str, Any] | None:
    """The content of `adapter_config.json`, or None where peft cannot read the adapter."""
    if why_no_peft_config(stored) is not None:
        return None
    own = {"lora": _lora, "prefix": _prefix, layout.PEFT: _long_tail}[stored.method](stored)
    head = head_modules(stored) or []
    shared = {
        "base_model_name_or_path": stored.manifest["backbone"]["path_or_id"] or stored.manifest["backbone"]["id"],
        "inference_mode": True,
        "modules_to_save": head or None,
        "task_type": task_type(stored, head),
    }
    return {**own, **shared}


def derived_tensors(stored: Stored) -> dict[str, Tensor]:
    """What peft needs beside the adapter's own tensors: a prefix as one matrix (P, layers * 2 * H * K)."""
    if stored.method != "prefix" or _why_no_prefix(stored) is not None:
        return {}
    config = stored.manifest["backbone"]["config"]
    parts = []
    for tensors in _in_order(stored):
        keys, values = tensors["keys"], tensors["values"]
        parts += [rotary.turned(keys, keys.shape[0], config), values.detach().cpu().float()]
    return {"prompt_embeddings": torch.stack(parts, dim=1).flatten(1)}


def head_prefix(stored: Stored) -> str:
    """What stands before the head's names in the file: peft's prompt learning has no inner `model`."""
    return "base_model." if derived_tensors(stored) else layout.HEAD


def head_modules(stored: Stored) -> list[str] | None:
    """The modules that peft keeps whole as the head (`modules_to_save`); None when a head part is in no module.

    The manifest's `head_modules` wins (see `largest_modules`). Without it, names have to do: outside the backbone
    the top module, inside it the module that owns the parameter.
    """
    given = stored.manifest.get("head_modules")
    if given is not None:
        return list(given)
    found = []
    for name in stored.head:
        parts = name.split(".")
        if len(parts) == 1:
            return None
        inside = not stored.prefix or parts[0] == stored.prefix
        if inside and len(parts) == 2 and stored.prefix:
            return None
        found.append(".".join(parts[:-1]) if inside else parts[0])
    return list(dict.fromkeys(found))


def largest_modules(head: Collection[str], everything: Iterable[str]) -> list[str] | None:
    """The largest modules all of whose parameters are head; None when a head parameter is in no such module.

    Args:
        head: the head's parameter and buffer names.
        everything: all such names of the shell.

    Examples:
        >>> largest_modules(["c.a.weight", "c.b.bias"], ["c.a.weight", "c.b.bias", "bert.x.weight"])
        ['c']
        >>> largest_modules(["c.b.bias"], ["c.a.weight", "c.b.bias"])
        ['c.b']
    """
    others = [name for name in everything if name not in set(head)]
    found: list[str] = []
    for name in head:
        parts = name.split(".")[:-1]
        tops = (".".join(parts[: i + 1]) for i in range(len(parts)))
        top = next((top for top in tops if not any(other.startswith(f"{top}.") for other in others)), None)
        if top is None:
            return None
        found.append(top)
    return list(dict.fromkeys(found))


def task_type(stored: Stored, head: list[str]) -> str | None:
    """peft's task; it adds modules named `classifier` and `score` itself, so those must be whole in the head."""
    writing = {own: theirs for theirs, own in WRITING.items()}.get(stored.manifest["task"]["name"])
    if writing is not None:
        return writing
    outside = [module for module in head if module.split(".")[0] != stored.prefix]
    named = {own: theirs for theirs, own in TASKS.items()}.get(stored.manifest["task"]["name"])
    return named if outside and not any("." in module for module in outside) else None


def _lora(stored: Stored) -> dict[str, Any]:
    knobs = stored.knobs
    ranks = {_full(stored, path): int(t["lora_A"].shape[0]) for path, t in stored.layers.items() if t["lora_A"].numel()}
    alphas = {path: knobs.get("alpha") or rank for path, rank in ranks.items()}
    # The most common pair stands for all: readers without patterns then misread as little as possible.
    rank = max(ranks.values(), key=list(ranks.values()).count)
    alpha = max(alphas.values(), key=list(alphas.values()).count)
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _plain(alpha),
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {path: _plain(a) for path, a in alphas.items() if a != alpha},
        "use_rslora": bool(knobs.get("rslora", False)),
        "lora_dropout": float(knobs.get("dropout", 0.0)),
        "target_modules": list(ranks),
        "fan_in_fan_out": bool(stored.manifest.get("transposed")),
        "bias": "none",
        "init_lora_weights": True,
    }


def _prefix(stored: Stored) -> dict[str, Any]:
    length, heads, size = next(iter(stored.layers.values()))["keys"].shape
    return {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": length,
        "num_layers": len(stored.layers),
        "num_attention_heads": heads,
        "token_dim": heads * size,
        "encoder_hidden_size": heads * size,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }


def _long_tail(stored: Stored) -> dict[str, Any]:
    """The configuration itself; module paths in the backbone become paths in the shell."""
    config = dict(stored.knobs["config"])
    names = stored.layers.get("", {})
    for key in ("target_modules", "feedforward_modules", "exclude_modules"):
        if isinstance(config.get(key), list | tuple | set):
            config[key] = sorted(
                _full(stored, part) if any(name.startswith(f"model.{part}.") for name in names) else part
                for part in config[key]
            )
    return {key: value for key, value in config.items() if value is not None and key != "runtime_config"}


def _why_no_prefix(stored: Stored) -> str | None:
    config = stored.manifest["backbone"]["config"]
    why = rotary.why_not({"model_type": stored.manifest["backbone"]["model_type"], **config})
    if why is None and len(stored.layers) != config.get("num_hidden_layers"):
        why = "peft's prefix acts in every layer, this one does not"
    if why is None and len({tensors["keys"].shape for tensors in stored.layers.values()}) != 1:
        why = "peft's prefix has one length, this one has several"
    if why is None and (task_type(stored, head_modules(stored) or []) is None):
        why = "peft's prefix needs a classification head whose modules are whole"
    return f"Prefix tuning cannot be written for peft here: {why}." if why else None


def _in_order(stored: Stored) -> list[Any]:
    """The sites' tensors by layer: `layers.10` comes after `layers.9`."""

    def number(path: str) -> list[int]:
        return [int(part) for part in path.split(".") if part.isdigit()]

    return [stored.layers[path] for path in sorted(stored.layers, key=number)]


def _full(stored: Stored, path: str) -> str:
    return f"{stored.prefix}.{path}" if stored.prefix else path


def _plain(alpha: float) -> float | int:
    """An int where it is one: several readers parse nothing else."""
    return int(alpha) if float(alpha).is_integer() else float(alpha)


__all__ = [
    "adapter_config", "derived_tensors", "from_peft", "head_modules", "head_prefix", "holds_rows",
    "largest_modules", "task_type", "why_no_peft_config",
]  # fmt: skip
