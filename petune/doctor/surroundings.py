"""Everything in a folder that is no matter of formats: pickles, code, links, permissions, leftovers."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from petune.doctor.chart import Chart

MOST_ENTRIES = 10_000
"""A folder with more entries is looked at no further; the loader names its files and does not list it."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh")
_LEFTOVER = re.compile(r"\..*\.tmp|\.tmp\w{6}")
"""petune's own temporary names, and those of safetensors."""
_BROKEN = re.compile(r"checkpoint-\d+.*\.broken(-\d+)?")
_CONFIGS = ("config.json", "tokenizer_config.json", "adapter_config.json")


def look_around(chart: Chart) -> None:
    """Notes what lies in the folder itself; what is in its sub-folders is their own business."""
    with os.scandir(chart.folder) as entries:
        names = sorted(entry.name for _, entry in zip(range(MOST_ENTRIES), entries, strict=False))
    size = 0
    for name in names:
        path = chart.folder / name
        try:
            status = path.lstat()
        except OSError:  # gone in the meantime
            continue
        if stat.S_ISLNK(status.st_mode):
            _link(chart, path)
            try:
                status = path.stat()
            except OSError:
                continue
        if stat.S_ISDIR(status.st_mode):
            _leftover(chart, name)
        elif stat.S_ISREG(status.st_mode):
            size += status.st_size
            _file(chart, path)
            _mode(chart, name, status.st_mode)
        else:
            chart.error("special-file", name, "A pipe, a socket or a device.", fix="Remove it.")
    chart.facts["bytes"] = size
    _named_code(chart, names)


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, by its name or by its first bytes; it is not opened as one."""
    if path.suffix in _PICKLES or re.search(r"\.bin\b", path.name):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError:
        return False
    # Protocols 2 to 5 begin so; torch's archives name their pickle first.
    return (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5") or (head[:4] == b"PK\3\4" and b"data.pkl" in head)


def _file(chart: Chart, path: Path) -> None:
    _leftover(chart, path.name)
    if is_pickle(path):
        chart.add(
            "warning",
            "pickle",
            path.name,
            "A pickle can run code when it is opened. petune never opens one; other programs may.",
            fix="Remove it, if nobody needs it.",
        )
    elif path.suffix in _CODE:
        chart.add("warning", "code", path.name, "Code. petune runs nothing of a folder.", fix="Remove it.")


def _leftover(chart: Chart, name: str) -> None:
    if _BROKEN.fullmatch(name):
        cause = "A damaged checkpoint that was set aside. Nothing reads it."
        chart.add("note", "leftover", name, cause, fix="Remove it when nobody wants to look into it.")
    elif _LEFTOVER.fullmatch(name):
        chart.add(
            "note",
            "leftover",
            name,
            "Temporary: its writer was killed, or is at work now. Readers pass it over.",
            fix="The next save sweeps petune's own; remove others by hand.",
        )


def _link(chart: Chart, path: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        cause = f"A link to {os.readlink(path)}, which is not there."
        chart.error("link", path.name, cause, fix="Put the file itself in its place (cp -L).")
        return
    home = path.parent.resolve()
    # transformers' cache keeps the files of snapshots/<commit>/ in blobs/ beside it.
    blobs = home.parent.parent / "blobs"
    if not target.is_relative_to(home) and target.parent != blobs:
        chart.add(
            "note" if target.is_dir() else "error",
            "link",
            path.name,
            f"A link that leads out of the folder, to {target}: what is read is not what was handed over.",
            fix="If you trust it, put the file itself in its place (cp -L).",
        )


def _mode(chart: Chart, name: str, mode: int) -> None:
    if os.name == "nt":
        return
    around = chart.folder.stat().st_mode
    if mode & stat.S_IWOTH:
        chart.add("warning", "mode", name, "Everybody on this machine may change it.", fix=f"chmod o-w {name}")
    elif mode & (stat.S_ISUID | stat.S_ISGID):
        chart.add("warning", "mode", name, "It has the set-user or set-group bit.", fix=f"chmod ug-s {name}")
    elif around & stat.S_IROTH and not mode & stat.S_IROTH and name.endswith(".safetensors"):
        chart.add(
            "note",
            "mode",
            name,
            "The folder is readable for all, this file is not: safetensors writes its files so.",
            fix=f"chmod a+r {name}, if others are to load it.",
        )


def _named_code(chart: Chart, names: list[str]) -> None:
    """Configurations that name code to run (`auto_map`); petune never says yes to it."""
    for name in _CONFIGS:
        path = chart.folder / name
        if name in names and path.is_file() and path.stat().st_size < 1 << 20 and b'"auto_map"' in path.read_bytes():
            chart.add(
                "warning" if name != "adapter_config.json" else "note",
                "code",
                name,
                "It names classes of its own to import (auto_map). petune runs no code of a folder.",
                "auto_map",
            )
