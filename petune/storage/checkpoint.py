"""Paused runs on disk: immutable folders that are either whole or invisible.

    output_dir/
    └── checkpoint-00000012/        12 optimizer steps are done
        ├── state.safetensors       every tensor of the run
        └── state.json              everything else, and the digests of both

A folder is written under a temporary name, flushed to the disk and then renamed: the rename is the commit. Nothing here
is a pickle. What the tensors and the state mean is the business of `petune.training.resume`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from petune.errors import CheckpointError
from petune.storage.atomic import sync_folder

SCHEMA = 1
TENSORS, STATE = "state.safetensors", "state.json"
_NAME = re.compile(r"checkpoint-(\d{8,})")


class Checkpoint(NamedTuple):
    """A paused run, read and verified."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep_last: int) -> Path:
    """Writes `checkpoint-<step>` into `folder`, then drops all but the newest `keep_last`.

    Raises:
        CheckpointError: when the disk refuses; what was there before is then still there.
    """
    final = folder / f"checkpoint-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".checkpoint-*.tmp"):
            shutil.rmtree(stale)
        temporary.mkdir()
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        _flush(temporary / TENSORS, content)
        _flush(temporary / STATE, _sealed(step, state, content))
        sync_folder(temporary)
        if final.exists():  # a damaged one that was not resumed from
            final.rename(temporary.with_name(f".{final.name}.old.tmp"))
        temporary.rename(final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint {final} could not be written: {error}.",
            expected="Earlier checkpoints are untouched.",
            fix="Make room or check the permissions, then pass resume='auto'.",
        ) from error
    try:
        sync_folder(folder)
    except OSError as error:  # the rename has happened: this is no failed save any more
        warnings.warn(f"{final} is written, but the disk did not confirm it ({error}).", stacklevel=2)
    _drop(folder, keep_last)
    return final


def read(path: Path) -> Checkpoint:
    """Reads one checkpoint folder and verifies every byte of it.

    Raises:
        CheckpointError: when it is missing, torn, damaged or of a newer petune.
    """
    content = _bytes(path / TENSORS)
    header, state = _opened(path / STATE)
    if len(content) != header["bytes"] or _digest(content) != header["sha256"]:
        raise _damaged(path / TENSORS, "its bytes are not those that were written")
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise _damaged(path / TENSORS, str(error)) from error
    return Checkpoint(path, header["step"], tensors, state)


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a folder, or None when it holds none at all.

    A damaged one is passed over with a warning that names it.

    Raises:
        CheckpointError: when there are checkpoints and none is whole.
    """
    there = found(folder)
    for path in reversed(there):
        try:
            return read(path)
        except CheckpointError as error:
            last = error
            warnings.warn(f"{error.what} The one before it is tried.", RuntimeWarning, stacklevel=2)
    if there:
        raise CheckpointError(
            f"None of the {len(there)} checkpoints in {folder} is whole.",
            expected=last.what,
            fix="Remove them to start afresh, or pass resume=None with another output_dir.",
        )
    return None


def found(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, oldest first; temporary ones do not count."""
    if not folder.is_dir():
        return []
    named = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()]
    return [path for _, path in sorted(named, key=lambda pair: int(pair[0][1]))]


def is_checkpoint(path: Path) -> bool:
    """Whether a path is itself a checkpoint folder (and not the folder that holds them)."""
    return (path / STATE).is_file() or (path / TENSORS).is_file()


def _drop(folder: Path, keep_last: int) -> None:
    """Retention, after the commit. A folder that cannot be removed costs room, not the run."""
    for path in found(folder)[:-keep_last]:
        # Renamed first: a removal that is cut short must not leave something that looks like a checkpoint.
        doomed = path.with_name(f".{path.name}.old.tmp")
        try:
            path.rename(doomed)
        except OSError:
            continue
        shutil.rmtree(doomed, ignore_errors=True)
    for stale in folder.glob(".checkpoint-*.old.tmp"):
        shutil.rmtree(stale, ignore_errors=True)


def _sealed(step: int, state: Mapping[str, Any], content: bytes) -> bytes:
    """`state.json`: the state as text, so that its digest does not depend on how JSON is laid out."""
    text = json.dumps(state)
    header = {"schema": SCHEMA, "step": step, "bytes": len(content), "sha256": _digest(content)}
    seal = _digest((json.dumps(header) + text).encode())
    return json.dumps({"header": header, "seal": seal, "state": json.loads(text)}).encode()


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and state of `state.json`, verified."""
    try:
        outer = json.loads(_bytes(path))
        header, state, seal = outer["header"], outer["state"], outer["seal"]
        schema = header["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"it does not parse ({type(error).__name__})") from error
    if schema != SCHEMA:
        raise CheckpointError(
            f"The checkpoint {path.parent} has schema {schema!r}.",
            expected=f"This petune reads schema {SCHEMA}.",
            fix="Resume with the petune that wrote it.",
        )
    if _digest((json.dumps(header) + json.dumps(state)).encode()) != seal:
        raise _damaged(path, "its content is not what was written")
    return header, state


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint file {path} cannot be used: {why}.",
        expected=f"A whole checkpoint holds {TENSORS} and {STATE} as petune wrote them.",
        fix="Resume from an earlier checkpoint of the run, or start afresh.",
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _flush(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
