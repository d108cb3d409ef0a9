"""Between a living adapter and one at rest: `pack` makes a `Stored`, `unpack` builds the adapter on a backbone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from petune.config import TrainConfig
from petune.errors import AdapterFileError
from petune.lookup import find, name_of
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.probe import as_json, difference, replay, thinned, tolerance
from petune.model.quantizing import was_transposed
from petune.model.shell import Shell
from petune.storage import manifest as manifests
from petune.storage.fingerprint import backbone_fingerprint, checkpoint_fingerprint, checkpoint_folder
from petune.storage.stored import Stored


def knobs_of(thing: Any) -> dict[str, Any]:
    """The knobs of a method or task, as JSON."""
    to_knobs = getattr(thing, "to_knobs", None)
    if to_knobs is not None:
        return dict(to_knobs())
    return {knob.name: _plain(getattr(thing, knob.name)) for knob in dataclasses.fields(thing)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def fingerprint(backbone: Backbone) -> str:
    """The digest of the backbone's weights as they were stored; made once, before anything is injected or merged."""
    if backbone.fingerprint is None:
        found = _from_files(backbone) if backbone.rounded else None
        backbone.fingerprint = found or backbone_fingerprint(backbone.named_tensors())
    return backbone.fingerprint


def identity(backbone: Backbone) -> str:
    """What a run stands on: the weights as they were stored, and what they were quantised to."""
    return fingerprint(backbone) + (f" in {backbone.quantized}" if backbone.quantized else "")


def outputs_fingerprint(shell: Shell) -> str | None:
    """The digest of what a language model's checkpoint holds around its base model; None where it holds nothing there.

    It stands apart from the backbone's own, which is the same for every task on one checkpoint.
    """
    untied, seen = shell.outputs.untied, shell.backbone.output_fingerprints
    kind = type(shell.model)
    if untied and kind not in seen:
        seen[kind] = backbone_fingerprint((name, tensor.detach()) for name, tensor in untied.items())
    return seen.get(kind) if untied else None


def backbone_facts(shell: Shell) -> dict[str, Any]:
    """What a manifest says of the backbone. A local folder is no id that others could use."""
    backbone = shell.backbone
    local = Path(backbone.source).exists() if backbone.source else True
    return {
        "id": None if local else backbone.source,
        "path_or_id": str(Path(backbone.source).resolve()) if backbone.source and local else backbone.source or None,
        "model_type": backbone.model_type,
        "prefix": shell.prefix,
        "fingerprint": fingerprint(backbone),
        "outputs": outputs_fingerprint(shell),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "quantized": backbone.quantized,
        "config": manifests.small_config(backbone.model.config),
    }


def pack(adapter: Adapter, probe_logits: torch.Tensor | None) -> Stored:
    """An adapter as tensors and a manifest."""
    facts = adapter.facts
    task_knobs = {key: value for key, value in knobs_of(adapter.task).items() if key != "labels"}
    shell = adapter.shell
    layers = adapter.tensors()
    made = manifests.build(
        name=adapter.name,
        task={"name": name_of("tasks", adapter.task), "knobs": task_knobs},
        labels=list(adapter.task.labels),
        method={"name": name_of("methods", adapter.method), "knobs": knobs_of(adapter.method)},
        backbone=backbone_facts(shell),
        trained_as=facts.get("trained_as"),
        seed=facts.get("seed"),
        metrics=facts.get("metrics"),
        data=facts.get("data"),
        probe=None if probe_logits is None else as_json(probe_logits),
        untrained=bool(facts.get("untrained", False)),
        training=facts.get("training", {}),
        transposed=[site.path for site in adapter.body.sites if site.transposed or was_transposed(site.output)],
        head_modules=[*shell.outside, *(f"{shell.prefix}.{path}".lstrip(".") for path in shell.overlays)],
    )
    return Stored(made, {path: _on_cpu(named) for path, named in layers.items()}, _on_cpu(adapter.head()))


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def facts_of(adapter: Adapter, data: dict[str, Any], config: TrainConfig, best: dict[str, Any]) -> dict[str, Any]:
    """What a manifest tells of a fit: seed, figures, data, and the knobs that were not the defaults."""
    default = TrainConfig()
    chosen = {
        knob.name: _plain(value)
        for knob in dataclasses.fields(config)
        if (value := getattr(config, knob.name)) != getattr(default, knob.name)
        and knob.name not in ("output_dir", "metrics", "progress", "log_with")
    }
    return {
        "seed": config.seed,
        "data": data,
        "trained_as": name_of("methods", adapter.method),
        "metrics": dict(best),
        "training": chosen,
        "untrained": False,
    }


def unpack(stored: Stored, backbone: Backbone, name: str | None = None) -> Adapter:
    """Builds an adapter at rest on a backbone; torch's random numbers are as before.

    Raises:
        AdapterFileError: another backbone, or tensors that do not fit it.
        UnknownNameError: a method or task that is not installed here.
    """
    notices = check_backbone(stored, backbone)
    said = stored.manifest
    task = find("tasks", said["task"]["name"])(**{**said["task"]["knobs"], "labels": tuple(said["labels"])})
    method_class = find("methods", said["method"]["name"])
    from_knobs = getattr(method_class, "from_knobs", None)
    knobs = said["method"]["knobs"]
    method = from_knobs(knobs) if from_knobs is not None else method_class(**knobs)
    facts = {key: said.get(key) for key in ("seed", "metrics", "data", "trained_as", "untrained", "probe", "training")}
    adapter = Adapter.filled(backbone, name or said["name"], method, task, stored.layers, stored.head, **facts)
    adapter.facts["notices"] = [*stored.notices, *notices]
    try:
        _check_outputs(said["backbone"], adapter.shell)
        if _doubtful(said["backbone"], backbone):
            _check_by_probe(adapter, said.get("probe"))
    except BaseException:
        adapter.body.detach()
        raise
    return adapter


ALIKE = 0.25
"""Largest logit difference, relative to the largest logit, between a backbone and itself in another precision."""


def _check_by_probe(adapter: Adapter, stored_probe: dict[str, Any] | None) -> None:
    """Digests say nothing of a backbone in another precision; its answers do.

    Raises:
        AdapterFileError: they are those of other weights.
    """
    if not stored_probe or adapter.method.residence == "private":
        return
    bank, expected = Bank(adapter.shell.backbone), torch.tensor(stored_probe["logits"])
    if adapter.method.residence == "shared":
        bank.add(adapter)
    try:
        seen = replay(adapter, bank.frame(adapter.name) if adapter.name in bank.residents else None)
    finally:
        if adapter.name in bank.residents:
            bank.remove(adapter.name)
    seen = seen if seen.shape == expected.shape else thinned(seen)
    differ, accepted = difference(expected, seen), ALIKE * float(expected.abs().max())
    if not differ <= accepted:
        raise AdapterFileError(
            f"In {adapter.shell.backbone.dtype} the adapter's answers on its probe differ by {differ:.2g}.",
            expected=f"Another precision of the same weights stays within {accepted:.2g}, so these are other weights.",
            fix=_load_on({}),
        )


def _load_on(said: dict[str, Any]) -> str:
    """What to do with an adapter of another backbone; an adapter may not say of which."""
    home = said.get("path_or_id")
    return f"Load it on {home!r}." if home else "Load it on the backbone that it was trained on."


def _form(dtype: str, quantized: str | None) -> str:
    """The precision of a backbone, in words."""
    return f"{quantized} (from {dtype})" if quantized else dtype


def _doubtful(said: dict[str, Any], backbone: Backbone) -> bool:
    """Whether the answers must speak for the weights: in another precision, or quantised elsewhere, digests cannot.

    Quantising itself changes the answers by an amount that depends on the weights, so it is no reason to ask.
    """
    if str(backbone.dtype).removeprefix("torch.") != said["dtype"]:
        return True
    same_kind = backbone.quantized is not None and backbone.quantized == said.get("quantized")
    return same_kind and said["fingerprint"] != fingerprint(backbone)


def check_backbone(stored: Stored, backbone: Backbone) -> list[str]:
    """Refuses an adapter that was trained on other weights; what cannot be compared is said.

    Raises:
        AdapterFileError: another architecture or other weights.
    """
    said = stored.manifest["backbone"]
    if said["model_type"] not in (None, backbone.model_type):
        raise AdapterFileError(
            f"The adapter was trained on a {said['model_type']!r} backbone, this is {backbone.model_type!r}.",
            fix=_load_on(said),
        )
    if said["fingerprint"] is None:
        return ["The adapter does not say which weights it was trained on, so the backbone could not be checked."]
    here = _form(str(backbone.dtype).removeprefix("torch."), backbone.quantized)
    there = _form(said["dtype"], said.get("quantized"))
    alike = [] if here == there else [f"The backbone is {here}; the adapter was trained on it in {there}."]
    if said["fingerprint"] == fingerprint(backbone):
        return alike
    if here != there or backbone.quantized:
        # The backbone was cast or quantised after loading: what its files hold decides, where there are files.
        found = _from_files(backbone)
        if found == said["fingerprint"]:
            return alike
        if found is None:
            return [f"The backbone is {here}, the adapter was trained in {there}: they could not be compared."]
    raise AdapterFileError(
        f"The adapter was trained on other weights: fingerprint {said['fingerprint'][:12]}..., "
        f"this backbone has {fingerprint(backbone)[:12]}....",
        expected="An adapter only means something on the backbone that it was trained on.",
        fix=_load_on(said),
    )


def _check_outputs(said: dict[str, Any], shell: Shell) -> None:
    """Refuses a language model's adapter where the checkpoint's `lm_head` is another one than in training.

    Raises:
        AdapterFileError: with both digests.
    """
    there, here = said.get("outputs"), outputs_fingerprint(shell)
    same_type = said["dtype"] == str(shell.backbone.dtype).removeprefix("torch.")
    if said["fingerprint"] is not None and there != here and same_type:
        raise AdapterFileError(
            f"The adapter was trained on another language modelling head: {str(there)[:12]}, here {str(here)[:12]}.",
            expected="Backbone and head of a language model come from one checkpoint.",
            fix=_load_on(said),
        )


def _from_files(backbone: Backbone) -> str | None:
    """The fingerprint of the checkpoint files behind a backbone, where they are on this machine."""
    folder = checkpoint_folder(backbone.source)
    if folder is None:
        return None
    names = [name for name, _ in backbone.model.named_parameters() if name not in backbone.missing]
    found = checkpoint_fingerprint(folder, names, backbone.model.base_model_prefix)
    return found[0] if found else None


def check_probe(stored_probe: dict[str, Any] | None, logits: torch.Tensor, dtype: torch.dtype) -> float | None:
    """Compares replayed logits with the stored ones; None when nothing was stored.

    Raises:
        AdapterFileError: they differ by more than the tolerance for the backbone's type.
    """
    if not stored_probe:
        return None
    expected = torch.tensor(stored_probe["logits"])
    logits = logits if logits.shape == expected.shape else thinned(logits)
    if expected.shape != logits.shape:
        raise AdapterFileError(f"The probe gives logits of shape {tuple(logits.shape)}, not {tuple(expected.shape)}.")
    differ, accepted = difference(expected, logits), tolerance(dtype, expected)
    if differ > accepted:
        raise AdapterFileError(
            f"The adapter's answers on its probe differ by {differ:.1e} from those it was saved with.",
            expected=f"At most {accepted:.1e} is accepted for {dtype}.",
            fix="Check the versions in petune.json and the backbone.",
        )
    return differ
