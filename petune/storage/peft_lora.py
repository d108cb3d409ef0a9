"""LoRA and AdaLoRA tensors of a peft folder, as petune's `lora` layers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from petune.errors import AdapterFileError, ConfigError
from petune.lookup import near
from petune.patterns import matcher
from petune.storage.peft_patterns import Patterns, endings

_NAME = re.compile(r"base_model\.model\.(?P<site>.+)\.lora_(?P<part>[ABE])(\.weight)?")
_RANKNUM_GUARD = 1e-5
"""peft divides AdaLoRA's scale by (rank + 1e-5)."""
Layers = dict[str, dict[str, Tensor]]


def layers(
    said: Mapping[str, Any], own: Mapping[str, Tensor], prefix: str, config: Any, source: str, notices: list[str]
) -> tuple[dict[str, Any], Layers]:
    """petune's knobs and layers.

    Args:
        said: peft's configuration.
        own: the tensors without the head, by their names in the file.
        prefix: where the backbone sits in the shell.
        config: the backbone's configuration, or None.

    Raises:
        AdapterFileError: a tensor that is no factor, a factor without its partner, misshapen ones, a target that
            matches nothing, blocks without tensors.
    """
    pairs = _pairs(own, source)
    _check_targets(said, list(pairs), source)
    _check_left_out(said, list(pairs), source)
    _check_blocks(said, list(pairs), config, source)
    adalora = said["peft_type"] == "ADALORA"
    rank_of, alpha_of = Patterns(said, "rank_pattern"), Patterns(said, "alpha_pattern")
    said_alphas = {path: alpha_of.value(path, said.get("lora_alpha", 8)) for path in pairs}
    said_ranks = {} if adalora else {path: rank_of.value(path, said.get("r", 8)) for path in pairs}
    scales = {
        path: _adalora_scale(said, path, parts, source)
        if adalora
        else _scale(said, path, parts, said_ranks[path], said_alphas[path], source)
        for path, parts in pairs.items()
    }
    ranks = {path: int(parts["A"].shape[0]) for path, parts in pairs.items()}
    knobs: dict[str, Any] = {"dropout": _number(said, "lora_dropout", 0.0, source)}
    alphas = set(said_alphas.values())
    fold = adalora or len(alphas) > 1
    if fold:
        knobs |= {"alpha": None, "rslora": False}
        notices.append(f"The scale of each site of {source} is folded into its factors.")
    else:
        knobs |= {"alpha": alphas.pop(), "rslora": bool(said.get("use_rslora", False))}
    common = max([r for r in ranks.values() if r] or [1], key=Counter(ranks.values()).__getitem__)
    short = {path: path.removeprefix(f"{prefix}.") if prefix else path for path in pairs}
    outside = next((path for path in pairs if prefix and not path.startswith(f"{prefix}.")), None)
    if outside is not None:
        raise AdapterFileError(f"{source}: the site {outside!r} is outside of the backbone {prefix!r}.")
    knobs["rank"] = common
    knobs["ranks"] = {short[path]: rank for path, rank in ranks.items() if rank != common}
    knobs["modules"] = list(short.values())
    made = {short[path]: _layer(parts, scales[path] if fold else 1.0) for path, parts in pairs.items()}
    return knobs, made


def _pairs(own: Mapping[str, Tensor], source: str) -> dict[str, dict[str, Tensor]]:
    """Site in the shell -> its factors."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in own.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise AdapterFileError(
                f"{source}: the tensor {name!r} is neither a LoRA factor of a linear map nor part of the head.",
                expected="An adapter never writes over the backbone's weights.",
            )
        pairs.setdefault(match["site"], {})[match["part"]] = tensor
    for site, parts in pairs.items():
        lone = set("AB") - set(parts)
        if lone:
            raise AdapterFileError(
                f"{source}: {site!r} lacks the tensor lora_{min(lone)}.", fix="Save it again in peft."
            )
        a, b = parts["A"], parts["B"]
        e = parts.get("E")
        good = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] and (e is None or e.numel() == a.shape[0])
        if not good or not all(t.is_floating_point() for t in parts.values()):
            raise AdapterFileError(f"{source}: the factors of {site!r} do not fit: {[tuple(t.shape) for t in (a, b)]}.")
    if not pairs:
        raise AdapterFileError(f"{source}: the folder holds no LoRA factors.")
    return {site: pairs[site] for site in sorted(pairs, key=_by_block)}


def _by_block(path: str) -> list[tuple[int, str]]:
    """Sorts `layer.10` after `layer.9`: a file's own order is any."""
    return [(int(part) if part.isdigit() else -1, part) for part in path.split(".")]


def _layer(parts: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """`lora_A` (R, d_in) and `lora_B` (d_out, R); E and a folded scale go into A."""
    a = parts["A"]
    if "E" in parts or scale != 1.0:
        e = parts["E"].reshape(-1, 1).float() if "E" in parts else torch.ones(a.shape[0], 1)
        a = (a.float() * e * scale).to(a.dtype)
    return {"lora_A": a, "lora_B": parts["B"]}


def _adalora_scale(said: Mapping[str, Any], path: str, parts: Mapping[str, Tensor], source: str) -> float:
    """What peft multiplies B A with: as it computes it, in float32, by the number of ranks before pruning."""
    if "E" not in parts:
        raise AdapterFileError(f"{source}: {path!r} lacks the tensor lora_E.")
    alpha = _number(said, "lora_alpha", 8, source)
    start = _number(said, "init_r", 12, source)
    return float((alpha if alpha > 0 else start) / (torch.tensor(float(start)) + _RANKNUM_GUARD))


def _scale(
    said: Mapping[str, Any], path: str, parts: Mapping[str, Tensor], said_rank: Any, alpha: Any, source: str
) -> float:
    """What peft multiplies B A with, and the check that its rank is the tensors' own."""
    rank = int(parts["A"].shape[0])
    if said_rank != rank or "E" in parts:
        raise AdapterFileError(f"{source} says rank {said_rank} for {path!r}, its tensors have rank {rank}.")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha) or alpha <= 0:
        raise AdapterFileError(f"{source}: lora_alpha={alpha!r} for {path!r}.", expected="A positive number.")
    return float(alpha) / (math.sqrt(rank) if said.get("use_rslora") else rank)


def _number(said: Mapping[str, Any], field: str, otherwise: float, source: str) -> float:
    value = said.get(field, otherwise)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise AdapterFileError(f"{source}: {field}={value!r}.", expected="A finite number.")
    return value


def _check_targets(said: Mapping[str, Any], sites: list[str], source: str) -> None:
    """Every target has tensors and every tensor a target; peft ignores both kinds of mistake."""
    targets = said.get("target_modules")
    if targets is None or targets == "all-linear":
        return  # the family's defaults: the tensors say which sites there are
    if isinstance(targets, str):
        _check_expression(targets, sites, source)
        return
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise AdapterFileError(f"{source}: target_modules is no list of names.")
    wanted = set(targets)
    met = {site: wanted.intersection(endings(site)) for site in sites}
    idle = wanted.difference(*met.values())
    if idle:
        first = next(target for target in targets if target in idle)
        raise AdapterFileError(
            f"{source}: the target {first!r} has no tensors.",
            fix=near(first, {site.split(".")[-1] for site in sites}),
        )
    for site in sites:
        if not met[site]:
            raise AdapterFileError(f"{source}: {site!r} has tensors, but is no target.", fix=near(site, targets))


def _check_left_out(said: Mapping[str, Any], sites: list[str], source: str) -> None:
    """No tensors at a site that the configuration leaves out."""
    excluded, blocks = said.get("exclude_modules"), said.get("layers_to_transform")
    out = _matcher(excluded, "exclude_modules", source) if isinstance(excluded, str) else None
    names = set(map(str, excluded)) if isinstance(excluded, list) else set()
    wanted = {str(blocks)} if isinstance(blocks, int) else set(map(str, blocks or ()))
    for site in sites:
        number = re.search(r"\.(\d+)\.", site)
        if (out is not None and out(site)) or not names.isdisjoint(endings(site)):
            field = "exclude_modules"
        elif wanted and number and str(int(number[1])) not in wanted:
            field = "layers_to_transform"
        else:
            continue
        raise AdapterFileError(
            f"{source}: {site!r} has tensors, but {field}={str(said[field])[:80]} leaves it out.",
            fix="Save it again in peft.",
        )


def _matcher(pattern: str, field: str, source: str) -> Callable[[str], bool]:
    """A bounded matcher, whose errors name file and field."""

    def named(error: ConfigError) -> AdapterFileError:
        fix = f"Load the adapter in peft, list the modules in {field}, and save it again."
        return AdapterFileError(f"{source}: {field}: {error.what}", expected=error.expected, fix=fix)

    def run(site: str) -> bool:
        try:
            return matches(site)
        except ConfigError as error:
            raise named(error) from error

    try:
        matches = matcher(pattern)
    except ConfigError as error:
        raise named(error) from error
    return run


def _check_expression(pattern: str, sites: list[str], source: str) -> None:
    """Every site with tensors matches the expression that chose them; its steps are bounded."""
    matches = _matcher(pattern, "target_modules", source)
    odd = next((site for site in sites if not matches(site)), None)
    if odd is not None:
        raise AdapterFileError(
            f"{source}: {odd!r} has tensors, but target_modules={pattern[:80]!r} does not match it.",
            fix="Save it again in peft.",
        )


def _check_blocks(said: Mapping[str, Any], sites: list[str], config: Any, source: str) -> None:
    """A whole block without tensors, when the configuration leaves none out."""
    blocks = getattr(config, "num_hidden_layers", None)
    targets = said.get("target_modules")
    by_block = not isinstance(targets, list) or any(re.search(r"\.\d+\.", f".{target}") for target in targets)
    if blocks is None or said.get("layers_to_transform") is not None or by_block:
        return
    there = {int(number[1]) for site in sites if (number := re.search(r"\.(\d+)\.", site))}
    missing = sorted(set(range(blocks)) - there)
    if there and missing:
        raise AdapterFileError(
            f"{source}: block {missing[0]} of the backbone's {blocks} has no tensors.",
            expected=f"Tensors for {targets} in every block.",
        )
