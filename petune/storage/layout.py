"""Which tensor of the file is which tensor of the adapter: names follow peft's layout for every method.

A site's tensors are `base_model.model.<prefix>.<site>.<short>` (LoRA with peft's `.weight` at the end), the head's
are `base_model.model.<name in the shell>`. The manifest's `layout` lists them, so a name is never taken apart.
Tensors without elements (rank 0) live in the layout alone: peft and its readers would stumble over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from petune.errors import AdapterFileError
from petune.lookup import near
from petune.storage.container import DTYPES
from petune.storage.stored import Stored

HEAD = "base_model.model."
"""Where peft keeps the head; its prompt-learning methods have no inner `model`, so there it is `base_model.`."""
PEFT = "peft"
"""The name of the long-tail method, whose tensor names are peft's own, under the site path `""`."""


def site_tensor(method: str, prefix: str, site: str, short: str) -> str:
    """The name in the file of one tensor at a site.

    Examples:
        >>> site_tensor("lora", "bert", "encoder.layer.0.attention.self.query", "lora_A")
        'base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight'
        >>> site_tensor("peft", "bert", "", "vera_A")
        'base_model.vera_A'
    """
    dotted = f"{prefix}." if prefix else ""
    if method == PEFT:
        inner = short.startswith("model.")
        return f"base_model.model.{dotted}{short.removeprefix('model.')}" if inner else f"base_model.{short}"
    ending = ".weight" if short in ("lora_A", "lora_B") else ""
    return f"base_model.model.{dotted}{site}.{short}{ending}"


def flatten(
    stored: Stored, derived: Mapping[str, Tensor], head_at: str = HEAD
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the file, and the layout that finds them again.

    Args:
        derived: further tensors for peft's readers, computed from the adapter's own; never read back.
        head_at: what stands before the head's names.

    Raises:
        AdapterFileError: when two tensors would get one name.
    """
    tensors: dict[str, Tensor] = {}
    layout: dict[str, Any] = {
        "sites": {path: list(named) for path, named in stored.layers.items()},
        "head": list(stored.head),
        "head_at": head_at,
        "derived": list(derived),
        "empty": {},
    }
    found = {**{name: stored.layers[path][short] for path, short, name in _sites(stored, layout)}}
    found |= {head_at + name: tensor for name, tensor in stored.head.items()}
    if len(found) != sum(map(len, stored.layers.values())) + len(stored.head) or set(found) & set(derived):
        raise AdapterFileError("Two tensors of the adapter would have the same name in the file.")
    for name, tensor in {**found, **derived}.items():
        if tensor.numel():
            tensors[name] = tensor
        else:
            layout["empty"][name] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    return tensors, layout


def unflatten(tensors: Mapping[str, Tensor], manifest: dict[str, Any], source: str) -> Stored:
    """The adapter that the file's tensors are; every tensor must have its place and every place its tensor.

    Raises:
        AdapterFileError: a malformed layout, missing or unexpected tensors.
    """
    stored = Stored(manifest)
    layout = manifest["layout"]
    _check_form(layout, source)
    sites = list(_sites(stored, layout))
    factors = {name: short for _, short, name in sites if short in ("lora_A", "lora_B") and name not in tensors}
    every = {**tensors, **_empty(layout, factors, source)}
    wanted = (
        {name for _, _, name in sites} | {layout["head_at"] + name for name in layout["head"]} | set(layout["derived"])
    )
    _same_names(wanted, set(every), source)
    layers: dict[str, dict[str, Tensor]] = {path: {} for path in layout["sites"]}
    for path, short, name in sites:
        layers[path][short] = every[name]
    return Stored(manifest, layers, {name: every[layout["head_at"] + name] for name in layout["head"]})


def _sites(stored: Stored, layout: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(site path, short name, name in the file) of every tensor at a site."""
    for path, shorts in layout["sites"].items():
        for short in shorts:
            yield path, short, site_tensor(stored.method, stored.prefix, path, short)


def _same_names(wanted: set[str], there: set[str], source: str) -> None:
    for what, names, others in (("lacks", wanted - there, there - wanted), ("holds", there - wanted, wanted - there)):
        if names:
            first = sorted(names)[0]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise AdapterFileError(
                f"{source} {what} the tensor {first!r}{more}{'' if what == 'lacks' else ', which belongs to nothing'}.",
                expected="Exactly the tensors that its manifest lists.",
                fix=near(first, others) if others else "Save the adapter again.",
            )


def _empty(layout: Mapping[str, Any], factors: Mapping[str, str], source: str) -> dict[str, Tensor]:
    """The tensors without elements: the factors of LoRA's sites of rank 0, and nothing else.

    Any other size would be believed without a byte behind it, and memory asked for by it.

    Args:
        factors: the names of LoRA factors that the file does not hold -> `lora_A` or `lora_B`.
    """
    made = {}
    for name, form in layout["empty"].items():
        form = form if isinstance(form, dict) else {}
        dtype, shape = form.get("dtype"), form.get("shape")
        sizes = shape if isinstance(shape, list) else []
        whole = len(sizes) == 2 and all(type(n) is int and 0 <= n < 2**31 for n in sizes)
        rank, width = (sizes if factors.get(name) == "lora_A" else sizes[::-1]) if whole else (None, 0)
        if dtype not in DTYPES or name not in factors or rank != 0 or not width:
            raise AdapterFileError(
                f"{source}: layout.empty[{name!r}] is no empty tensor of an adapter.",
                expected="A factor of a LoRA site of rank 0: lora_A (0, d_in) or lora_B (d_out, 0).",
            )
        made[name] = torch.empty(sizes, dtype=DTYPES[dtype])
    return made


def _check_form(layout: Any, source: str) -> None:
    def strings(value: Any) -> bool:
        return (
            isinstance(value, list) and all(isinstance(item, str) for item in value) and len(set(value)) == len(value)
        )

    good = (
        isinstance(layout, dict)
        and isinstance(layout.get("sites"), dict)
        and all(strings(shorts) for shorts in layout["sites"].values())
        and strings(layout.get("head"))
        and strings(layout.get("derived"))
        and layout.get("head_at") in (HEAD, "base_model.")
        and isinstance(layout.get("empty"), dict)
    )
    if not good:
        raise AdapterFileError(f"{source}: the manifest's 'layout' is malformed.", fix="Save the adapter again.")
