"""Reading AdapterHub's layout, without that library: bottleneck and LoRA adapters of BERT's kind, with their heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from petune.errors import AdapterFileError
from petune.storage import container, manifest, strict_json
from petune.storage.adapterhub import (
    ACTIVATIONS,
    BLOCK,
    CONFIG,
    PICKLES,
    PLAIN,
    PREFIXES,
    STYLES,
    WEIGHTS,
    split_site,
)
from petune.storage.adapterhub_head import head_of, tensors_in
from petune.storage.stored import Stored

Layers = dict[str, dict[str, Tensor]]
_BOTTLENECK = r"(?P<site>.+\.output)\.adapters\.{name}\.(?P<part>adapter_down\.0|adapter_up)\.(?P<short>weight|bias)"
_LORA = r"(?P<site>.+)\.loras\.{name}\.(?P<short>lora_A|lora_B)"
_FIRST_SCALED = (1, 1)
"""The release from which that library applies the scale of a LoRA."""


def is_adapterhub(said: Mapping[str, Any]) -> bool:
    """Whether an `adapter_config.json` is AdapterHub's.

    Examples:
        >>> is_adapterhub({"config": {"reduction_factor": 16}, "model_type": "bert", "version": "adapters.1.2.0"})
        True
        >>> is_adapterhub({"peft_type": "LORA", "r": 8})
        False
    """
    return "peft_type" not in said and "config" in said and ("model_type" in said or "model_class" in said)


def lies_in(folder: Path) -> bool:
    """Whether a folder has the files of that library, and not those of peft or petune."""
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (WEIGHTS, PICKLES[0]))


def from_adapterhub(folder: str | Path, *, config: Any = None) -> Stored:
    """An adapter of that library, as petune keeps it.

    Args:
        config: the backbone's transformers configuration, if it is at hand.

    Raises:
        AdapterFileError: whatever petune would compute otherwise, with the field or the tensor.
    """
    folder = Path(folder)
    source = str(folder / CONFIG)
    said = strict_json.loads(container.read_bytes(folder / CONFIG), source=source)
    inner = said.get("config")
    if not is_adapterhub(said) or not isinstance(inner, dict):
        raise AdapterFileError(
            f"{source} is no configuration of AdapterHub.", expected="Its `config` and `model_type`."
        )
    model_type = said.get("model_type")
    if model_type not in PREFIXES:
        raise AdapterFileError(
            f"{source} is for the architecture {model_type!r}.", expected=f"One of {', '.join(PREFIXES)}."
        )
    prefix = PREFIXES[model_type]
    notices: list[str] = []
    own = {name.removeprefix(f"{prefix}."): one for name, one in tensors_in(folder, WEIGHTS).items()}
    if inner.get("architecture") == "lora":
        method, knobs, layers = "lora", *_lora(said, inner, own, source, notices)
    elif inner.get("architecture") in (None, "bottleneck"):
        method, knobs, layers = "bottleneck", *_bottleneck(said, inner, own, source)
    else:
        raise AdapterFileError(
            f"{source} is of the kind {inner.get('architecture')!r}.", expected="A bottleneck or a LoRA."
        )
    task, labels, head = head_of(folder, prefix, notices)
    home = said.get("model_name")
    local = isinstance(home, str) and Path(home).exists()
    made = manifest.build(
        name=str(said.get("name") or folder.resolve().name),
        task=task,
        labels=labels,
        method={"name": method, "knobs": knobs},
        backbone={
            "id": home if isinstance(home, str) and not local else None,
            "path_or_id": home if isinstance(home, str) else None,
            "model_type": model_type,
            "prefix": prefix,
            "config": {} if config is None else manifest.small_config(config),
        },
    )
    return Stored(made, layers, head, tuple(notices))


def _parts(
    own: Mapping[str, Tensor], pattern: str, said: Mapping[str, Any], source: str
) -> dict[re.Match[str], Tensor]:
    """The tensors, each with what its name says; one that is no part of the adapter is refused."""
    rule = re.compile(pattern.replace("{name}", re.escape(str(said.get("name")))))
    found = {}
    for name, tensor in own.items():
        match = rule.fullmatch(name)
        if match is None or split_site(f"{match['site']}.dense") is None:
            raise AdapterFileError(
                f"{source}: the tensor {name!r} is no part of such an adapter.",
                expected="Gates, norms, learnt scales and invertible adapters have no place in petune.",
            )
        found[match] = tensor
    if not found:
        raise AdapterFileError(f"{source}: the folder holds no tensors of the adapter {said.get('name')!r}.")
    return found


def _lora(
    said: Mapping[str, Any], inner: Mapping[str, Any], own: Mapping[str, Tensor], source: str, notices: list[str]
) -> tuple[dict[str, Any], Layers]:
    for field, value in {"composition_mode": "add", "use_gating": False}.items():
        _must_be(inner, field, value, source)
    layers: Layers = {}
    for match, tensor in _parts(own, _LORA, said, source).items():
        layers.setdefault(match["site"], {})[match["short"]] = tensor
    rank, alpha = inner.get("r"), inner.get("alpha")
    for site, pair in layers.items():
        fits = set(pair) == {"lora_A", "lora_B"} and pair["lora_A"].shape[0] == pair["lora_B"].shape[-1] == rank
        if not fits:
            raise AdapterFileError(f"{source}: the factors at {site!r} are not a pair of rank {rank}.")
    if _release(said) < _FIRST_SCALED and alpha != rank:
        notices.append(f"Before adapters 1.1 a LoRA's alpha had no effect: {rank} is taken in place of {alpha}.")
        alpha = rank
    dropout = float(inner.get("dropout") or 0.0)
    knobs = {"rank": rank, "alpha": float(alpha or 0), "rslora": False, "dropout": dropout, "modules": list(layers)}
    return knobs, layers


def _release(said: Mapping[str, Any]) -> tuple[int, ...]:
    """The release of that library; its predecessor, whose folders say nothing of the kind, applied the scale."""
    match = re.fullmatch(r"adapters\.(\d+)\.(\d+).*", str(said.get("version") or ""))
    return (int(match[1]), int(match[2])) if match else _FIRST_SCALED


def _bottleneck(
    said: Mapping[str, Any], inner: Mapping[str, Any], own: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Any], Layers]:
    places = {field: bool(inner.get(field)) for field in ("mh_adapter", "output_adapter", "is_parallel")}
    style = next((name for name, fields in STYLES.items() if fields == places), "")
    if not style:
        raise AdapterFileError(f"{source} puts its adapters where petune's bottleneck has none.", expected=f"{STYLES}.")
    for field, value in PLAIN.items():
        if not (style == "parallel" and field == "original_ln_before"):
            _must_be(inner, field, value, source)
    names = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"silu": "silu"}
    activation, scale = str(inner.get("non_linearity")).lower(), inner.get("scaling", 1.0)
    if activation not in names or not isinstance(scale, int | float) or isinstance(scale, bool):
        field = "non_linearity" if activation not in names else "scaling"
        raise AdapterFileError(f"{source} has {field}={inner.get(field)!r}.", expected=f"{', '.join(names)}; a number.")
    layers: Layers = {}
    for match, tensor in _parts(own, _BOTTLENECK, said, source).items():
        block = f"{BLOCK}.{(split_site(match['site']) or (0, ''))[0]}"
        site = f"{block}.feed_forward" if style == "parallel" else f"{match['site']}.dense"
        part = "down" if match["part"] == "adapter_down.0" else "up"
        layers.setdefault(site, {})[f"{part}.{match['short']}"] = tensor
    widths = {int(one["down.weight"].shape[0]) for one in layers.values() if "down.weight" in one}
    if len(widths) != 1:
        raise AdapterFileError(f"{source}: the adapters have the widths {sorted(widths)}.", expected="One width.")
    blocks = sorted({(split_site(site) or (0, ""))[0] for site in layers})
    knobs = {
        "style": style,
        "width": widths.pop(),
        "activation": names[activation],
        "scale": float(scale),
        "dropout": float(inner.get("dropout") or 0.0),
        "layers": blocks if inner.get("leave_out") else "all",
    }
    return knobs, layers


def _must_be(inner: Mapping[str, Any], field: str, value: Any, source: str) -> None:
    """Refuses a field by which that library's network is another one than petune's."""
    there = inner.get(field, value)
    if there == value or (not there and not value):
        return
    ahead = field == "original_ln_before"
    raise AdapterFileError(
        f"{source} has {field}={there!r}"
        + (": its adapters read what the norm makes of a sub-block (Pfeiffer's seq_bn)." if ahead else "."),
        expected=f"{field}={value!r}" + (": petune's bottleneck reads a sub-block's own output." if ahead else "."),
    )
