"""What is in a folder: what the doctor sees, what the manifest says, and what each file takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petune.doctor import diagnose
from petune.doctor.diagnosis import plain
from petune.errors import AdapterFileError
from petune.storage import adapter_file, strict_json

FACTS = ("bytes", "metrics")
"""Of the doctor's facts, those that are said elsewhere or to nobody."""


def inspected(folder: Path, *, tensors: bool) -> dict[str, Any]:
    """Facts, knobs, figures, files; with `tensors` also every shape.

    Raises:
        AdapterFileError: nothing that anybody knows is there.
    """
    found = diagnose(folder)
    if found.kind in ("nothing", "file", "unknown"):
        first = next(iter(found.all_findings()))
        raise AdapterFileError(first.cause, fix=first.fix)
    made: dict[str, Any] = {
        "folder": str(folder),
        "kind": found.kind,
        "ok": found.ok,
        "facts": {name: value for name, value in found.facts.items() if name not in FACTS},
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        "inside": [{"folder": one.folder.name, "kind": one.kind, "ok": one.ok} for one in found.inside],
    }
    if found.ok and (folder / adapter_file.EXPORT).is_file():
        said = _manifest(folder)
        made["knobs"] = {part: said[part] for part in ("task", "method")}
        made |= {part: said.get(part) or {} for part in ("training", "metrics", "data")}
    if tensors and found.ok and "adapter" in found.kind:
        stored = adapter_file.read(folder)
        named = {f"{path}.{short}": one for path, own in stored.layers.items() for short, one in own.items()}
        made["tensors"] = {name: list(one.shape) for name, one in {**named, **stored.head}.items()}
    return made


def text_of(found: Mapping[str, Any]) -> str:
    """The same for people: a heading for each part, and a line for each thing in it."""
    lines = [
        f"{found['folder']}: {found['kind']}" + ("" if found["ok"] else ", with errors (petune doctor names them)")
    ]
    knobs = found.get("knobs", {})
    parts: dict[str, Mapping[str, Any]] = {
        "facts": found["facts"],
        **{f"{part}: {one['name']}": one["knobs"] for part, one in knobs.items()},
        "knobs of fitting that were not the defaults": found.get("training", {}),
        "figures": found.get("metrics", {}),
        "data": found.get("data", {}),
        "bytes": found["files"],
        "inside": {one["folder"]: one["kind"] for one in found["inside"]},
        "tensors": found.get("tensors", {}),
    }
    for heading, part in parts.items():
        shown = {name: value for name, value in part.items() if value not in (None, "", [], {})}
        if shown:
            width = max(map(len, shown))
            lines += ["", heading, *(f"  {name:<{width}}  {_words(value)}" for name, value in shown.items())]
    return "\n".join(map(plain, lines))


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(one)}" for key, one in value.items() if one not in (None, "", [], {}))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest; the one in the adapter file where there is one, because it decides."""
    if (folder / adapter_file.ADAPTER).is_file():
        return adapter_file.read(folder).manifest
    return strict_json.loads((folder / adapter_file.EXPORT).read_bytes(), source=adapter_file.EXPORT)
