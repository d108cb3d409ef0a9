"""The doctor: looks at a folder, tells what it is, and has it examined by who knows its kind."""

from __future__ import annotations

import os
import re
from pathlib import Path

from petune.doctor import checkpoints, other_library, own_adapter, peft_adapter, surroundings, whole_model
from petune.doctor.chart import Chart
from petune.doctor.diagnosis import Diagnosis
from petune.doctor.surroundings import look_around
from petune.storage import adapter_file, checkpoint, container, full_facts, strict_json
from petune.storage.whereabouts import near_folders

ADAPTER, CONFIG, EXPORT = adapter_file.ADAPTER, adapter_file.PEFT_CONFIG, adapter_file.EXPORT
_MARKS = (ADAPTER, CONFIG, EXPORT, "adapter_model.bin", *other_library.WEIGHTS)
"""Who has one of these is an adapter folder, or was meant to be one."""
_LICENSE = re.compile(r"^license:[ \t]*(\S.{0,80})", re.MULTILINE)


def diagnose(folder: str | Path) -> Diagnosis:
    """What a folder is and what is wrong with it. Nothing in it is executed, changed or believed unchecked.

    Adapters of petune and peft (AdapterHub's are told apart), checkpoints, the output folder of a run, whole models,
    and a store: a folder of such folders. An adapter without an error loads, as far as a folder can tell by itself:
    whether it fits a backbone is found when it is loaded on one.

    Args:
        folder: nothing outside of it is read, but for what links in it lead to.

    Examples:
        >>> found = diagnose("no/such/folder")
        >>> found.ok, found.kind, found.findings[0].kind
        (False, 'nothing', 'missing')
    """
    chart = Chart(Path(folder))
    try:
        kind = _examined(chart)
    except Exception as error:  # whatever a hostile folder made a check stumble over: noted, never silent
        chart.error("refused", "", f"The examination stopped ({type(error).__name__}: {error}).")
        kind = "unknown"
    return chart.diagnosis(kind)


def _examined(chart: Chart) -> str:
    """Examines the folder and gives back what it is."""
    folder = chart.folder
    if not folder.is_dir():
        return _no_folder(chart)
    try:
        look_around(chart)
    except OSError as error:
        chart.error("unreadable", "", f"The folder cannot be looked through ({error.strerror}).")
        return "unknown"
    if checkpoint.is_checkpoint(folder):
        found = checkpoints.examine_checkpoint(folder)
        chart.facts, chart.findings = dict(found.facts), list(found.findings)
        return found.kind
    kinds = []
    if full_facts.is_full_model(folder) and not os.path.lexists(folder / ADAPTER):
        whole_model.examine_own(chart)
        kinds.append("full fine-tuning by petune")
    elif _is_adapter(folder):
        kinds.append(_adapter(chart))
    elif whole_model.is_whole_model(folder):
        whole_model.examine_weights(chart)
        kinds.append("transformers model")
    if checkpoint.found(folder):
        checkpoints.examine_run(chart)
        kinds.append("run")
    return " and ".join(kinds) or _store(chart)


def _is_adapter(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in _MARKS)


def _adapter(chart: Chart) -> str:
    """An adapter folder, whoever wrote it."""
    license_ = _license(chart.folder)
    if license_:
        chart.facts["license"] = license_
    if (chart.folder / CONFIG).is_file() and not os.path.lexists(chart.folder / EXPORT):
        said = chart.attempt("broken-json", CONFIG, lambda: _json(chart.folder / CONFIG))
        if said is None:
            chart.findings.pop()  # who examines it further will note it
        elif other_library.is_adapterhub(said):
            other_library.examine(chart, said)
            return "AdapterHub adapter"
    data = _adapter_bytes(chart)
    path = str(chart.folder / ADAPTER)
    opened = None if data is None else chart.attempt("broken-container", ADAPTER, lambda: container.unpack(data, path))
    own = os.path.lexists(chart.folder / EXPORT)
    if data is not None and opened is not None and "petune" in opened[1]:
        own_adapter.examine(chart, data, *opened)
        return "petune adapter"
    if own and opened is None:
        return "petune adapter"
    if own:
        _bereft(chart)
    peft_adapter.examine(chart, None if opened is None else opened[0])
    return "peft adapter"


def _bereft(chart: Chart) -> None:
    """Exports of petune's beside an adapter file that is not: damage, or another program's file written over it."""
    chart.attempt("altered-manifest", ADAPTER, lambda: adapter_file.refuse_bereft(chart.folder))
    if not chart.sick:
        cause = f"It is petune's, and the adapter file is peft's: {CONFIG} is not the one that it lists."
        chart.add("warning", "stale-export", EXPORT, cause, fix=f"Delete {EXPORT}, which is read by nobody any more.")


def _adapter_bytes(chart: Chart) -> bytes | None:
    """The adapter file; what is there in its place is noted."""
    if os.path.lexists(chart.folder / ADAPTER):
        return chart.bytes_of(ADAPTER)
    if any(chart.folder.glob("adapter_model.bin*")):
        chart.error(
            "pickle",
            "adapter_model.bin",
            "The weights are there as a pickle alone; a pickle can run code, so petune never opens one.",
            fix="Load it in peft where you trust it, and call save_pretrained(..., safe_serialization=True).",
        )
    else:
        chart.error("missing", ADAPTER, "The adapter file is not there.", fix="Copy or download the folder whole.")
    return None


def _json(path: Path) -> dict[str, object]:
    return strict_json.loads(container.read_bytes(path), source=str(path))


def _license(folder: Path) -> str | None:
    """The licence that the model card names in its first lines."""
    path = folder / "README.md"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        text = file.read(8192).decode("utf-8", "replace")
    found = _LICENSE.search(text) if text.partition("\n")[0].rstrip() == "---" else None
    return found[1].strip() if found else None


def _store(chart: Chart) -> str:
    """A folder of adapter folders; or nothing that anybody knows."""
    folders = sorted(path for path in chart.folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    known = [path for path in folders if _is_adapter(path) or checkpoint.found(path) or checkpoint.is_checkpoint(path)]
    if not known:
        chart.error(
            "nothing-known",
            "",
            "Nothing in it was written by petune, peft or transformers' save_pretrained.",
            fix="Pass the folder that `save` gave back.",
        )
        return "unknown"
    chart.inside += [diagnose(path) for path in known]
    chart.facts["adapters"] = len(known)
    return "store"


def _no_folder(chart: Chart) -> str:
    folder = chart.folder
    if not os.path.lexists(folder):
        chart.error("missing", "", f"There is no folder {folder}.", fix=near_folders(folder.parent, folder.name))
        return "nothing"
    around = os.path.dirname(os.path.abspath(folder))
    if folder.is_file() and surroundings.is_pickle(folder):
        cause = "It is a pickle, which can run code when it is opened, so petune never does."
        chart.error("pickle", folder.name, cause, fix=f"Pass the folder around it, {around}")
    else:
        chart.error("nothing-known", folder.name, "It is no folder.", fix=f"Pass the folder around it, {around}")
    return "file"
