"""What a folder is that holds no adapter: the nearest one, a checkpoint, a whole model, a pickle."""

from __future__ import annotations

from pathlib import Path

from petune.errors import AdapterFileError
from petune.lookup import near

ADAPTER = "adapter_model.safetensors"
_WHOLE_MODEL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def check(folder: Path) -> None:
    """Passes when the folder holds an adapter file.

    Raises:
        AdapterFileError: otherwise, with what was found instead and what to do.
    """
    if (folder / ADAPTER).is_file():
        return
    if (folder / ADAPTER).exists():
        raise AdapterFileError(f"{folder / ADAPTER} is no regular file.", expected="A safetensors file.")
    if not folder.exists():
        raise _refusal(f"There is no folder {folder}.", near_folders(folder.parent, folder.name))
    if folder.is_file():
        fix = f"Pass {folder.parent}." if folder.name == ADAPTER else "Pass the folder that `save` gave back."
        raise _refusal(f"{folder} is a file.", fix)
    if any(folder.glob("adapter_model.bin*")) or (folder / "adapter.pt").exists():
        raise _refusal(
            f"{folder} holds its weights as a pickle; a pickle can run code, so petune never opens one.",
            "Load it in peft and call save_pretrained(..., safe_serialization=True).",
        )
    if any(folder.glob("checkpoint-*")) or (folder / "state.safetensors").exists():
        raise _refusal(f"{folder} holds a training checkpoint.", "Go on with fit(..., resume=...), or `save` it first.")
    if (folder / "config.json").exists() and any((folder / name).exists() for name in _WHOLE_MODEL):
        raise _refusal(f"{folder} holds a whole model.", "Pass it as the backbone: Tuner(folder).")
    if (folder / "adapter_config.json").exists() or (folder / "petune.json").exists():
        raise _refusal(f"{folder} describes an adapter, but lacks {ADAPTER}.", "Copy or download it whole.")
    raise _refusal(f"{folder} holds no adapter.", near_folders(folder, folder.name))


def near_folders(parent: Path, name: str) -> str:
    """A sentence that names the adapter folders in `parent`, the nearest first; empty when there are none."""
    if not parent.is_dir():
        return ""
    there = [path.name for path in parent.iterdir() if (path / ADAPTER).is_file()]
    return near(name, there) if there else ""


def _refusal(what: str, fix: str) -> AdapterFileError:
    return AdapterFileError(what, expected=f"A folder with {ADAPTER}.", fix=fix)
