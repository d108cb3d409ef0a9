"""Writing AdapterHub's layout: bottleneck and LoRA of BERT's kind, with the head of their transformers class."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from petune.errors import AdapterFileError
from petune.storage import container, strict_json
from petune.storage.adapterhub import (
    ACTIVATIONS,
    ATTENTION,
    BLOCK,
    CLASSES,
    CONFIG,
    HEAD_CONFIG,
    HEAD_WEIGHTS,
    MAPS,
    OUTPUT,
    PLAIN,
    PREFIXES,
    STYLES,
    WEIGHTS,
    split_site,
)
from petune.storage.plain_lora import plain_lora
from petune.storage.stored import Stored

VERSION = "adapters.1.3.0"
"""The release whose layout this is. (Before 1.1 a LoRA's scale was not applied, so the version matters to readers.)"""
_MODELS = "transformers.models.auto.modeling_auto"
Blocks = dict[int, dict[str, Mapping[str, Tensor]]]


def files_of(stored: Stored, *, drop_head: bool) -> tuple[dict[str, bytes], list[str]]:
    """File name -> bytes, and what whoever loads them should know.

    Raises:
        AdapterFileError: an architecture, a method, a site or a head that this layout cannot hold, with the reason.
    """
    model_type = stored.manifest["backbone"]["model_type"]
    if model_type not in PREFIXES:
        raise AdapterFileError(
            f"AdapterHub's layout is not written for {model_type!r}.",
            expected=f"One of {', '.join(PREFIXES)}, where both libraries act at the same places.",
        )
    if stored.method == "bottleneck":
        config, tensors = _bottleneck(stored)
    elif stored.method == "lora":
        config, tensors = _lora(stored)
    else:
        raise AdapterFileError(
            f"A {stored.method!r} adapter is not written for AdapterHub.", expected="A bottleneck or a LoRA."
        )
    name, prefix = _name(stored), PREFIXES[model_type]
    about = {**_about(stored), "config": config, "name": name}
    files = {
        CONFIG: _json(about),
        WEIGHTS: container.pack({f"{prefix}.{place}": one for place, one in tensors(name).items()}, {"format": "pt"}),
    }
    notices = [f"model.load_adapter(folder, use_safetensors=True) loads it as {name!r}."]
    if stored.head and not drop_head:
        files = {**_head(stored, prefix), **files}
    return files, notices


def _name(stored: Stored) -> str:
    """A name that can be a part of a module's path."""
    return str(stored.manifest["name"]).replace(".", "_")


def _about(stored: Stored) -> dict[str, Any]:
    backbone = stored.manifest["backbone"]
    table = CLASSES.get(stored.manifest["task"]["name"], "MODEL_MAPPING_NAMES")
    return {
        "model_type": backbone["model_type"],
        "model_name": backbone["id"] or backbone["path_or_id"],
        "model_class": getattr(importlib.import_module(_MODELS), table)[backbone["model_type"]],
        "hidden_size": backbone["config"].get("hidden_size"),
        "version": VERSION,
    }


def _blocks(stored: Stored, layers: Mapping[str, Mapping[str, Tensor]]) -> Blocks:
    """Block -> path in it -> tensors."""
    blocks: Blocks = {}
    for path, own in layers.items():
        at = split_site(path)
        if at is None:
            raise AdapterFileError(f"The site {path!r} lies in no block, where that library has no adapter.")
        blocks.setdefault(at[0], {})[at[1]] = own
    return blocks


def _left_out(stored: Stored, blocks: Blocks) -> list[int]:
    """The blocks without adapters; every other one must have the same sites."""
    sites = {frozenset(own) for own in blocks.values()}
    if len(sites) > 1:
        raise AdapterFileError(
            "The blocks differ in their sites.", expected="That library has the same ones in each block that has any."
        )
    return sorted(set(range(stored.manifest["backbone"]["config"]["num_hidden_layers"])) - set(blocks))


def _bottleneck(stored: Stored) -> tuple[dict[str, Any], Any]:
    knobs, blocks = stored.knobs, _blocks(stored, stored.layers)
    style = knobs.get("style", "houlsby")
    inside = {"feed_forward": OUTPUT} if style == "parallel" else {ATTENTION: ATTENTION, OUTPUT: OUTPUT}
    wanted = {"houlsby": {ATTENTION, OUTPUT}, "pfeiffer": {OUTPUT}, "parallel": {"feed_forward"}}[style]
    odd = next((path for own in blocks.values() for path in own if path not in wanted), None)
    left_out = _left_out(stored, blocks)
    if odd is not None or any(set(own) != wanted for own in blocks.values()):
        raise AdapterFileError(f"The site {odd!r} is none of AdapterHub's.", expected=f"{sorted(wanted)} in a block.")
    hidden = int(stored.manifest["backbone"]["config"]["hidden_size"])
    width = int(next(iter(next(iter(blocks.values())).values()))["down.weight"].shape[0])
    config = {
        "architecture": None,
        **STYLES[style],
        **PLAIN,
        "reduction_factor": _reduction(hidden, width),
        "non_linearity": ACTIVATIONS[knobs.get("activation", "gelu")],
        "scaling": float(knobs.get("scale", 1.0)),
        "dropout": float(knobs.get("dropout", 0.0)),
        "init_weights": "bert",
        "inv_adapter_reduction_factor": None,
        "leave_out": left_out,
    }

    def tensors(name: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for block, own in blocks.items():
            for path, named in own.items():
                place = f"{BLOCK}.{block}.{inside[path].removesuffix('.dense')}.adapters.{name}"
                for theirs, ours in (("adapter_down.0", "down"), ("adapter_up", "up")):
                    found |= {f"{place}.{theirs}.{part}": named[f"{ours}.{part}"] for part in ("weight", "bias")}
        return found

    return config, tensors


def _reduction(hidden: int, width: int) -> float:
    """The factor from which that library computes the width: `int(hidden // factor)`.

    Examples:
        >>> all(int(768 // _reduction(768, width)) == width for width in range(1, 769))
        True
    """
    factor = hidden / width
    while int(hidden // factor) < width:  # floor division of floats rounds down an exact quotient now and then
        factor = math.nextafter(factor, 0.0)
    return factor


def _lora(stored: Stored) -> tuple[dict[str, Any], Any]:
    plain = plain_lora(stored)
    blocks = _blocks(stored, plain.layers)
    odd = next((path for own in blocks.values() for path in own if path not in MAPS), None)
    if odd is not None:
        raise AdapterFileError(
            f"That library has no LoRA at {odd!r}.",
            expected=f"Sites among {', '.join(MAPS)}.",
            fix="Train with targets=('query', 'key', 'value', 'ffn_input', 'ffn_output'), or some of them.",
        )
    left_out = _left_out(stored, blocks)
    fields = {MAPS[path] for path in next(iter(blocks.values()))}
    matrices = sorted(field for field in fields if len(field) == 1)
    config = {
        "architecture": "lora",
        "selfattn_lora": bool(matrices),
        "intermediate_lora": "intermediate_lora" in fields,
        "output_lora": "output_lora" in fields,
        "attn_matrices": matrices,
        "leave_out": left_out,
        "r": plain.rank,
        "alpha": plain.rank,
        "dropout": float(stored.knobs.get("dropout", 0.0)),
        "composition_mode": "add",
        "init_weights": "lora",
        "use_gating": False,
        "dtype": None,
    }

    def tensors(name: str) -> dict[str, Tensor]:
        return {
            f"{path}.loras.{name}.{short}": tensor
            for path, own in plain.layers.items()
            for short, tensor in own.items()
        }

    return config, tensors


def _head(stored: Stored, prefix: str) -> dict[str, bytes]:
    """The head of a transformers class; that library takes its names as they are."""
    inside = next((name for name in stored.head if name.startswith(f"{prefix}.")), None)
    if inside is not None or stored.manifest["task"]["name"] not in CLASSES:
        raise AdapterFileError(
            f"A part of the head, {inside or next(iter(stored.head))!r}, cannot be written for AdapterHub.",
            expected="A classification head that lies outside of the backbone.",
            fix="Leave the head out with drop_head=True (--drop-head).",
        )
    labels = list(stored.manifest["labels"]) or ["LABEL_0"]
    about = {
        **_about(stored),
        "config": None,
        "name": None,
        "num_labels": len(labels),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    return {HEAD_CONFIG: _json(about), HEAD_WEIGHTS: container.pack(dict(stored.head), {"format": "pt"})}


def _json(value: Mapping[str, Any]) -> bytes:
    return (strict_json.dumps(dict(sorted(value.items())), indent=2) + "\n").encode()
