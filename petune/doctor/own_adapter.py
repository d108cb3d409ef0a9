"""An adapter folder that petune wrote: the loader's checks, each by itself, so that all faults are told at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from petune.doctor import exports, recipe, tensors
from petune.doctor.chart import Chart
from petune.errors import AdapterFileError, PetuneError
from petune.storage import adapter_file, container, layout, manifest, migrations, soundness, strict_json
from petune.storage.stored import Stored

FILE = adapter_file.ADAPTER


def examine(chart: Chart, data: bytes, named: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Examines the folder of an adapter file whose container is whole.

    Args:
        data: the bytes of the file.
        named: its tensors.
        metadata: its metadata, with petune's manifest.
    """
    tensors.describe(chart, named)
    said = _said(chart, metadata)
    if said is None:
        return
    refused: PetuneError | None = None
    try:
        stored: Stored | None = adapter_file.read(chart.folder)
    except PetuneError as error:  # then every check by itself, so that one fault hides no other
        refused, stored = error, _checked(chart, named, said)
    if stored is not None:
        _facts(chart, stored)
        chart.facts["schema"] = said.get("schema")  # that of the file, also where it was brought to today's
        recipe.check(chart, FILE, stored.manifest)
        if soundness.untrained(stored) or stored.manifest["untrained"]:
            tensors.note_untrained(chart, FILE)
    exports.check(chart, data, said)
    if refused is not None and not chart.sick:
        chart.refusal("refused", FILE, refused, {*named, *said})


def _said(chart: Chart, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The manifest as it stands in the file, if it is JSON."""
    text = metadata["petune"]
    if metadata.get("petune_sha256") != hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest():
        chart.error(
            "altered-manifest",
            FILE,
            "The manifest in its header is not what was written: its sha256 differs.",
            "petune_sha256",
            "Copy or download the file again, or save the adapter again.",
        )
    return chart.attempt("broken-json", FILE, lambda: strict_json.loads(text, source=f"The manifest in {FILE}"))


def _checked(chart: Chart, named: Mapping[str, Tensor], said: dict[str, Any]) -> Stored | None:
    """Every check of the loader by itself; the adapter, as far as it can be put together."""
    newer = type(said.get("schema")) is int and said["schema"] > migrations.SCHEMA
    said = migrations.migrated(said)
    try:
        manifest.validate(said, source=f"The manifest in {FILE}")
    except AdapterFileError as error:
        chart.refusal("newer-schema" if newer else "bad-manifest", FILE, error)
        return None
    _digests(chart, named, said["digests"])
    tensors.check_finite(chart, FILE, named)
    stored = _laid_out(chart, named, said)
    if stored is not None and not any(one.kind == "not-finite" for one in chart.findings):
        chart.attempt("shapes", FILE, lambda: soundness.check(stored, str(chart.folder / FILE)), stored.layers)
    return stored


def _digests(chart: Chart, named: Mapping[str, Tensor], digests: Mapping[str, Any]) -> None:
    altered = [name for name, t in named.items() if name in digests and container.digest(t) != digests[name]]
    again = "Copy or download the file again, or save the adapter again."
    chart.errors("altered-tensor", FILE, altered, "Its bytes are not those that were written (sha256).", again)
    chart.errors("foreign-tensor", FILE, set(named) - set(digests), "The manifest has no digest for it.", again)
    chart.errors("missing-tensor", FILE, set(digests) - set(named), "The manifest lists it, the file lacks it.", again)


def _laid_out(chart: Chart, named: Mapping[str, Tensor], made: dict[str, Any]) -> Stored | None:
    """The adapter that the tensors are; None when they are not those that the layout lists."""
    try:
        return layout.unflatten(named, made, str(chart.folder / FILE))
    except AdapterFileError as error:
        if not any(one.kind in ("foreign-tensor", "missing-tensor") for one in chart.findings):
            kind = {"lacks": "missing-tensor", "holds": "foreign-tensor"}
            word = error.what.removeprefix(str(chart.folder / FILE)).strip().split(" ")[0]
            chart.refusal(kind.get(word, "bad-manifest"), FILE, error, _listed(named, made))
        return None


def _listed(named: Mapping[str, Tensor], made: Mapping[str, Any]) -> set[str]:
    """The names that a refusal of the layout may speak of."""
    sites = made["layout"].get("sites")
    prefix, method = str(made["backbone"]["prefix"]), str(made["method"]["name"])
    found = {*named, "layout"}
    for path, shorts in sites.items() if isinstance(sites, dict) else ():
        names = shorts if isinstance(shorts, list) else []
        found |= {layout.site_tensor(method, prefix, path, str(short)) for short in names}
    head, at = made["layout"].get("head"), made["layout"].get("head_at")
    return found | {f"{at}{name}" for name in (head if isinstance(head, list) else [])}


def _facts(chart: Chart, stored: Stored) -> None:
    """What the manifest says, for people."""
    made = stored.manifest
    knobs, backbone = made["method"]["knobs"], made["backbone"]
    trained_as = made["trained_as"] if made["trained_as"] != made["method"]["name"] else None
    about = {key: backbone.get(key) for key in ("id", "path_or_id", "model_type", "fingerprint", "dtype", "quantized")}
    if about["id"] == about["path_or_id"]:
        about.pop("path_or_id")
    chart.facts |= {
        "targets": sorted({path.rsplit(".", 1)[-1] for path in stored.layers if path}),
        "sites": len(stored.layers),
        "name": made["name"],
        "method": made["method"]["name"],
        "trained_as": trained_as,
        "rank": knobs.get("rank"),
        "length": knobs.get("length"),
        "task": made["task"]["name"],
        "labels": list(made["labels"]),
        "backbone": about,
        "metrics": dict(made["metrics"]),
        "seed": made["seed"],
        "versions": {"petune": made["petune"], **made["versions"]},
    }
