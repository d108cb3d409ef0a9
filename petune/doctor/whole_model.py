"""Whole models: a full fine-tuning that petune saved, and transformers folders, which serve as backbones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from petune.doctor.chart import Chart
from petune.errors import AdapterFileError
from petune.storage import container, full_facts, manifest, migrations, strict_json

CONFIG, INDEX = "config.json", "model.safetensors.index.json"


def is_whole_model(folder: Path) -> bool:
    """Whether a folder looks like transformers' `save_pretrained`."""
    return (folder / CONFIG).is_file() and (
        any(folder.glob("model*.safetensors*")) or any(folder.glob("pytorch_model*"))
    )


def examine_own(chart: Chart) -> None:
    """A full fine-tuning: its facts, and whether the weights are those that were saved with them."""
    made = chart.json_of(full_facts.FACTS)
    if made is not None:
        source = str(chart.folder / full_facts.FACTS)
        newer = type(made.get("schema")) is int and made["schema"] > migrations.SCHEMA
        try:
            # The digest of the weights stands beside the manifest.
            manifest.validate(migrations.migrated(made), source=source, beside=("weights_sha256",))
        except AdapterFileError as error:
            chart.refusal("newer-schema" if newer else "bad-manifest", full_facts.FACTS, error)
        else:
            _own_facts(chart, made)
            chart.attempt("altered-weights", full_facts.WEIGHTS, lambda: full_facts.check_weights(chart.folder, made))
    examine_weights(chart)


def examine_weights(chart: Chart) -> None:
    """The containers of a whole model; its digests are nobody's business but its adapters'."""
    config = chart.json_of(CONFIG) if (chart.folder / CONFIG).is_file() else None
    if config is not None:
        kind, classes = config.get("model_type"), config.get("architectures")
        chart.facts.setdefault("backbone", {"model_type": kind, "architectures": classes})
    files = sorted(chart.folder.glob("model*.safetensors"))
    weights = 0
    for path in files:
        found = chart.attempt("broken-container", path.name, partial(container.read_header, path))
        weights += sum(_elements(entry.shape) for entry in (found.entries.values() if found else ()))
    chart.facts |= {"weights": weights, "files": len(files)}
    if (chart.folder / INDEX).is_file():
        _shards(chart)
    if not files:
        chart.error(
            "pickle",
            "",
            "The weights are there as a pickle alone; a pickle can run code, so petune never opens one.",
            fix="Load it with transformers where you trust it, and save it again: save_pretrained writes safetensors.",
        )


def _shards(chart: Chart) -> None:
    """Every shard that the index names is there, and in the folder."""
    data = chart.bytes_of(INDEX)
    if data is None:
        return
    source = str(chart.folder / INDEX)
    index = chart.attempt("broken-json", INDEX, lambda: strict_json.loads(data, source=source))
    shards = (index or {}).get("weight_map", {})
    for name in sorted({str(value) for value in shards.values()}) if isinstance(shards, dict) else ():
        if Path(name).name != name:
            chart.error("link", INDEX, f"It names {name!r}, which is outside of the folder.", "weight_map")
        elif not (chart.folder / name).is_file():
            chart.error("unreadable", name, f"{INDEX} names it, and it is not there.", fix="Download it again.")


def _own_facts(chart: Chart, made: Mapping[str, Any]) -> None:
    chart.facts |= {
        "name": made["name"],
        "method": made["method"]["name"],
        "task": made["task"]["name"],
        "labels": list(made["labels"]),
        "backbone": {key: made["backbone"].get(key) for key in ("id", "model_type", "fingerprint", "dtype")},
        "schema": made["schema"],
        "versions": {"petune": made["petune"], **made["versions"]},
    }


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
