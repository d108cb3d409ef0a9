"""The files beside an adapter file: as written, stale (made from another one), missing, or altered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petune.doctor.chart import Chart
from petune.storage.adapter_file import ADAPTER, EDITABLE, EXPORT, PEFT_CONFIG

_AGAIN = "Save the adapter again, which writes what belongs there."


def check(chart: Chart, data: bytes, made: Mapping[str, Any]) -> None:
    """Compares every export with the adapter file.

    Args:
        data: the bytes of the adapter file.
        made: its manifest.
    """
    if not (chart.folder / EXPORT).exists():
        chart.add("note", "missing-export", EXPORT, "It is not there.", fix=_AGAIN)
        return
    about = chart.json_of(EXPORT)
    if about is None:
        return
    sha256, listed = about.pop("adapter_sha256", None), about.pop("exports", None)
    if sha256 != hashlib.sha256(data).hexdigest():
        chart.add(
            "warning",
            "stale-export",
            EXPORT,
            f"It was made from another {ADAPTER} than the one beside it, and so were the files that it lists. "
            "petune goes by the adapter file alone; readers of the exports do not.",
            "adapter_sha256",
            _AGAIN,
        )
        return
    for key in sorted({*made, *about}):
        if about.get(key) != made.get(key):
            _altered(chart, EXPORT, key)
    if not isinstance(listed, dict):
        _altered(chart, EXPORT, "exports")
        return
    for name, digest in sorted(listed.items()):
        _one(chart, name, digest)
    if PEFT_CONFIG not in listed and (chart.folder / PEFT_CONFIG).exists():
        chart.add("warning", "stale-export", PEFT_CONFIG, "It belongs to another adapter.", fix=_AGAIN)


def _one(chart: Chart, name: str, digest: Any) -> None:
    path = chart.folder / name
    if Path(name).name != name:
        chart.error("altered-export", EXPORT, f"It lists {name!r}, which is outside of the folder.", "exports")
    elif not path.exists():
        chart.add("note", "missing-export", name, "It is not there.", fix=_AGAIN)
    elif name not in EDITABLE or digest is not None:
        data = chart.bytes_of(name)
        if data is not None and hashlib.sha256(data).hexdigest() != digest:
            _altered(chart, name, "")


def _altered(chart: Chart, file: str, key: str) -> None:
    chart.error(
        "altered-export",
        file,
        f"It claims to be made from the {ADAPTER} beside it, and says something else.",
        key,
        f"Delete {file} (and save the adapter again to get it back), or bring back the original.",
    )
