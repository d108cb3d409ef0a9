"""Bad adapter folders: files that are missing, are something else, lead elsewhere, or bring code along."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.adapter_folder import Files, Kind, by_peft, file_kind, good, put
from petune.storage.adapter_file import ADAPTER, EXPORT, PEFT_CONFIG

MARKER = "PETUNE_FAULTS_MARKER"
"""Environment variable with the path of a file that exists once any payload ran."""


class Payload:
    """Unpickled, it writes the marker."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f'touch "${MARKER}"',))


CODE = f"import os, pathlib\npathlib.Path(os.environ[{MARKER!r}]).touch()\nclass Tok: pass\n"


def kinds() -> list[Kind]:
    """Every kind of the group."""
    return [*_missing(), *_other_things(), *_links(), *_pipes(), *_payloads()]


def _with(change: Callable[[Path], object], files: Callable[[], Files] = good) -> Callable[[Path], None]:
    """A good folder that is changed on disk."""

    def make(folder: Path) -> None:
        put(folder, files())
        change(folder)

    return make


def _only(**files: bytes) -> Callable[[Path], None]:
    return lambda folder: put(folder, {name.replace("__", "."): data for name, data in files.items()})


def _missing() -> list[Kind]:
    return [
        file_kind("no folder", "There is no folder", lambda folder: None),
        file_kind("an empty folder", "holds no adapter", lambda folder: folder.mkdir(parents=True)),
        file_kind("a file in place of the folder", "is a file", lambda folder: folder.write_bytes(b"x")),
        file_kind("no adapter file", f"lacks {ADAPTER}", _with(lambda f: (f / ADAPTER).unlink())),
        file_kind("no adapter_config.json", f"{PEFT_CONFIG} could not be opened", _with(lambda f: (f / PEFT_CONFIG).unlink(), by_peft)),
        file_kind("the folder around it", "holds no adapter", lambda folder: put(folder / "inner", good())),
        file_kind("the adapter file in capitals", f"lacks {ADAPTER}", _with(lambda f: (f / ADAPTER).rename(f / ADAPTER.upper()))),
        file_kind("shards of an adapter", f"lacks {ADAPTER}", _with(lambda f: (f / ADAPTER).rename(f / "adapter_model-00001-of-00002.safetensors"))),
        file_kind("a path with NUL", "There is no folder|null", lambda folder: put(folder, good()), "a\0b"),
        file_kind("a path of 5,000 characters", "too long", lambda folder: put(folder, good()), "x" * 5_000),
    ]  # fmt: skip


def _other_things() -> list[Kind]:
    def swap(name: str) -> Callable[[Path], object]:
        return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())

    def sparse(name: str, size: int) -> Callable[[Path], object]:
        return lambda folder: os.truncate(folder / name, size)

    def checkpoint(folder: Path) -> None:
        (folder / "checkpoint-00000012").mkdir(parents=True)

    whole = _only(config__json=b"{}", model__safetensors=b"x")
    return [
        file_kind("a checkpoint", "holds a training checkpoint", checkpoint),
        file_kind("a whole model", "holds a whole model", whole),
        file_kind("the adapter file is a folder", "no regular file", _with(swap(ADAPTER))),
        file_kind("petune.json is a folder", "petune.json.* no regular file", _with(swap(EXPORT))),
        file_kind("adapter_config.json is a folder", f"{PEFT_CONFIG}.* no regular file", _with(swap(PEFT_CONFIG))),
        file_kind("an adapter file of 20 GB", "bytes. At most", _with(sparse(ADAPTER, 20 * 1024**3))),
        file_kind(
            "an adapter file with a hole of 9 GB", "its tensors end at byte", _with(sparse(ADAPTER, 9 * 1024**3))
        ),
        file_kind("a petune.json of 9 GB", "petune.json has .* bytes", _with(sparse(EXPORT, 9 * 1024**3))),
    ]


def _links() -> list[Kind]:
    def linked(name: str, target: str) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)

        return _with(change)

    def beside(folder: Path) -> None:
        put(folder.parent / f"{folder.name}-other", good())
        linked(ADAPTER, f"../{folder.name}-other/{ADAPTER}")(folder)

    def like_the_hub(folder: Path) -> None:
        """A snapshot whose link leaves the blobs of its repository."""
        (folder / "blobs").mkdir(parents=True)
        put(folder / "elsewhere", good())
        put(folder / "snapshots" / "main", good())
        (folder / "snapshots" / "main" / ADAPTER).unlink()
        (folder / "snapshots" / "main" / ADAPTER).symlink_to(f"../../elsewhere/{ADAPTER}")

    outside, gone = "is outside of the folder", "which is not there"
    return [
        file_kind("a link to a file of the system", outside, linked(PEFT_CONFIG, "/etc/passwd")),
        file_kind("a link to a device", outside, linked(PEFT_CONFIG, "/dev/zero")),
        file_kind("a link to another adapter", outside, beside),
        file_kind("a link to nowhere", gone, linked(PEFT_CONFIG, "nowhere")),
        file_kind("a link to itself", gone, linked(PEFT_CONFIG, PEFT_CONFIG)),
        file_kind("the adapter file is a link to nowhere", f"lacks {ADAPTER}", linked(ADAPTER, "nowhere")),
        file_kind("a link of the tokenizer's", outside, linked("tokenizer.json", "/etc/hostname")),
        file_kind("a link out of a hub's cache", outside, like_the_hub, "snapshots/main"),
    ]


def _pipes() -> list[Kind]:
    def pipe(name: str, kind: int = stat.S_IFIFO) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            (folder / name).unlink(missing_ok=True)
            os.mknod(folder / name, kind | 0o600)

        return _with(change)

    plain = "no regular file"
    return [
        file_kind("the adapter file is a pipe", f"{ADAPTER}.* {plain}", pipe(ADAPTER)),
        file_kind("petune.json is a pipe", f"{EXPORT}.* {plain}", pipe(EXPORT)),
        file_kind("adapter_config.json is a pipe", f"{PEFT_CONFIG}.* {plain}", pipe(PEFT_CONFIG)),
        file_kind("a file of the tokenizer is a pipe", f"tokenizer.json.* {plain}", pipe("tokenizer.json")),
        file_kind("a socket in the folder", f"history.jsonl.* {plain}", pipe("history.jsonl", stat.S_IFSOCK)),
    ]


def _payloads() -> list[Kind]:
    code = pickle.dumps(Payload())
    settings = {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["tokenizing.Tok", None]}}

    def dressed(folder: Path) -> None:
        """A folder by peft, whose tokenizer comes with code."""
        files = {"tokenizer_config.json": json.dumps(settings).encode(), "tokenizing.py": CODE.encode()}
        put(folder, {**by_peft(), **files})

    return [
        file_kind("a pickle of peft's", "a pickle can run code", _only(adapter_model__bin=code, adapter_config__json=b"{}")),
        file_kind("a pickle of torch's", "a pickle can run code", _only(adapter__pt=code)),
        file_kind("a pickle named as safetensors", "no whole safetensors file", _with(lambda f: (f / ADAPTER).write_bytes(code))),
        file_kind("a pickle named as JSON", "petune.json is not valid JSON", _with(lambda f: (f / EXPORT).write_bytes(code))),
        file_kind("a tokenizer with code", "tokenizer_config.json", dressed),
        file_kind("a broken tokenizer_config.json", "tokenizer_config.json", _with(lambda f: (f / "tokenizer_config.json").write_bytes(b"{"))),
        file_kind("a tokenizer.json cut off", "tokenizer.json", _with(lambda f: os.truncate(f / "tokenizer.json", 99))),
    ]  # fmt: skip
