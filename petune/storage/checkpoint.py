"""Paused runs on disk: immutable folders that are either whole or invisible.

    output_dir/
    ├── checkpoint-00000012/        12 optimizer steps are done
    │   ├── state.safetensors       every tensor of the run
    │   └── state.json              everything else, and size and digest of both
    ├── checkpoint-00000010.broken/ was found damaged and passed over; nothing reads it
    └── latest                      the name of the newest, and the digest of its state.json

A folder is written under a temporary name, flushed to the disk and then renamed: the rename is the commit. It is never
changed again: the same step written anew is `checkpoint-00000012-2`. What is newest is seen by the names; `latest`
tells when that one has been lost. Nothing here is a pickle. What the tensors and the state mean is the business of
`petune.training.resume`; that there is one writer is seen to by `petune.storage.atomic.only_writer`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from petune.errors import AdapterFileError, CheckpointError
from petune.storage import sealing
from petune.storage.atomic import make_folder, stage, sweep, sync_folder, write_file
from petune.storage.sealing import OtherSchemaError

TENSORS, STATE, LATEST = sealing.TENSORS, sealing.STATE, "latest"
_NAME = re.compile(r"checkpoint-(\d{8,})(?:-(\d+))?")
_TRIES = 20
"""Times that a reader looks again when the checkpoint was retired under its eyes."""


class Checkpoint(NamedTuple):
    """A paused run, read and verified."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep_last: int) -> Path:
    """Writes `checkpoint-<step>` into `folder`; once it reads back whole, drops all but the newest `keep_last`.

    Raises:
        CheckpointError: when the disk refuses; what was there before is then still there.
    """
    final = folder / f"checkpoint-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        make_folder(folder)
        sweep(folder)
        final = _free(folder, final.name)
        _clear(folder)
        temporary.mkdir()
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        sealed = sealing.sealed(step, state, content)
        stage(temporary / TENSORS, content)
        stage(temporary / STATE, sealed)
        sync_folder(temporary)
        temporary.rename(final)
    except (OSError, AdapterFileError) as error:
        _remove(temporary)
        raise _unwritten(final, str(error)) from error
    pointer = json.dumps({"checkpoint": final.name, "sha256": sealing.digest(sealed)}) + "\n"
    try:
        sync_folder(folder)
        write_file(folder / LATEST, pointer.encode())
    except (OSError, AdapterFileError) as error:  # the rename has happened: this is no failed save any more
        told = f"{final} is written, but the disk did not confirm it ({error}). Older checkpoints are kept."
        warnings.warn(told, stacklevel=2)
        return final
    _require_whole(final, content, sealed)
    with contextlib.suppress(OSError, CheckpointError):  # what cannot be removed costs room, not the run
        _drop(folder, keep_last, final)
    return final


def read(path: Path) -> Checkpoint:
    """Reads one checkpoint folder and verifies every byte of it.

    Raises:
        CheckpointError: when it is missing, torn, damaged or of a newer petune.
    """
    header, state = sealing.opened(path / STATE)
    content = sealing.bytes_of(path / TENSORS, header["bytes"])
    if len(content) != header["bytes"] or sealing.digest(content) != header["sha256"]:
        raise sealing.damaged(path / TENSORS, "its bytes are not those that were written")
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise sealing.damaged(path / TENSORS, str(error)) from error
    return Checkpoint(path, header["step"], tensors, state)


def newest(folder: Path, *, set_aside: bool = False) -> Checkpoint | None:
    """The newest whole checkpoint of a folder, or None when it holds none at all.

    A damaged one is passed over with a warning that names its file. One that a writer retires meanwhile is none of
    these: the folder is looked through again.

    Args:
        set_aside: rename the damaged ones to `*.broken`, so that they are told once; for the folder's writer.

    Raises:
        CheckpointError: when there are checkpoints and none is whole, or the newest one is of another petune.
    """
    for _ in range(_TRIES):
        there, damaged = found(folder), []
        for path in reversed(there):
            try:
                whole = read(path)
            except OtherSchemaError:
                raise
            except CheckpointError as error:
                if not path.is_dir():
                    break  # retired: look again
                damaged.append((path, error))
                continue
            _tell(damaged, set_aside)
            _tell_lost(folder, whole)
            return whole
        else:
            # A listing may miss what is renamed while it is made.
            if there or not (folder / LATEST).exists():
                break
    if there:
        for _, damage in damaged:
            warnings.warn(damage.what, RuntimeWarning, stacklevel=2)
        raise CheckpointError(
            f"None of the {len(there)} checkpoints in {folder} is whole.",
            expected=damaged[-1][1].what if damaged else "They were retired faster than they could be read.",
            fix="Remove them to start afresh, or pass resume=None with another output_dir.",
        )
    _tell_lost(folder, None)
    return None


def found(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, oldest first; temporary and broken ones do not count.

    Raises:
        CheckpointError: the folder cannot be looked through.
    """
    try:
        there = list(folder.iterdir()) if folder.is_dir() else []
        named = [path for path in there if _NAME.fullmatch(path.name) and path.is_dir()]
    except OSError as error:
        raise CheckpointError(
            f"{folder} could not be looked through: {error}.", fix="Check its permissions."
        ) from error
    return sorted(named, key=_order)


def tidy(folder: Path, keep_last: int) -> None:
    """Ends what a killed writer has begun: temporary files go, and what its retention would have dropped.

    For the folder's writer, once the newest checkpoint was read.
    """
    with contextlib.suppress(OSError, CheckpointError):  # what cannot be removed costs room, not the run
        sync_folder(folder)
        sweep(folder)
        if there := found(folder):
            _drop(folder, keep_last, there[-1])


def is_checkpoint(path: Path) -> bool:
    """Whether a path is itself a checkpoint folder (and not the folder that holds them)."""
    return (path / STATE).is_file() or (path / TENSORS).is_file()


def _order(path: Path) -> tuple[int, int]:
    """Step, then how often that step was written."""
    step, _, again = path.name.removeprefix("checkpoint-").partition("-")
    return int(step), int(again or 1)


def _free(folder: Path, name: str) -> Path:
    """`folder/name`, or with the first number that is not taken."""
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path


def _tell(damaged: list[tuple[Path, CheckpointError]], set_aside: bool) -> None:
    """Warns of each damaged checkpoint, of which a whole one stands behind."""
    for path, error in damaged:
        told = f"{error.what} The one before it is taken."
        if set_aside:
            broken = _free(path.parent, f"{path.name}.broken")
            try:
                path.rename(broken)
                told += f" It is now {broken.name}."
            except OSError:
                told += " It could not be renamed, and stays."
        warnings.warn(told, RuntimeWarning, stacklevel=3)


def _tell_lost(folder: Path, whole: Checkpoint | None) -> None:
    """Warns when the checkpoint that was the newest is not there at all, not even damaged."""
    path = folder / LATEST
    if not path.exists():
        return
    try:
        name = str(json.loads(sealing.bytes_of(path))["checkpoint"])
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
        name = ""
    if not _NAME.fullmatch(name):
        warnings.warn(f"{path} is damaged; the checkpoints were looked through without it.", RuntimeWarning, 3)
    elif not (folder / f"{name}.broken").exists() and not _is_passed(folder, _order(folder / name), whole):
        then = f"{whole.path.name} is taken" if whole else "the run starts afresh"
        warnings.warn(f"{path} names {name}, which is not there any more; {then}.", RuntimeWarning, stacklevel=3)


def _is_passed(folder: Path, order: tuple[int, int], whole: Checkpoint | None) -> bool:
    """Whether there is such a checkpoint or a later one; a listing may miss what is renamed while it is made."""
    if whole is not None and _order(whole.path) >= order:
        return True
    return any(_order(path) >= order for _ in range(_TRIES) for path in found(folder))


def _require_whole(final: Path, content: bytes, sealed: bytes) -> None:
    """Reads a checkpoint back before older ones may go.

    Raises:
        CheckpointError: when it is not what was written; it is set aside.
    """
    for name, written in ((TENSORS, content), (STATE, sealed)):
        try:
            same = (final / name).read_bytes() == written
        except OSError:
            same = False
        if not same:
            broken = _free(final.parent, f"{final.name}.broken")
            final.rename(broken)
            raise _unwritten(final, f"{broken / name} does not read back as it was written")


def _drop(folder: Path, keep_last: int, newest: Path) -> None:
    """Retention, after the commit: what is older than the newest goes.

    Later ones than that stay. A run that was resumed from an earlier step finds them, comes past them, and drops them
    then; until it does, nobody has read them.
    """
    older = [path for path in found(folder) if _order(path) <= _order(newest)]
    for path in older[:-keep_last]:
        # Renamed first: a removal that is cut short must not leave something that looks like a checkpoint.
        doomed = path.with_name(f".{path.name}.old.tmp")
        try:
            path.rename(doomed)
        except OSError:
            continue
        _remove(doomed)
    _clear(folder)


def _clear(folder: Path) -> None:
    """Removes what writers and retentions that were killed have left."""
    for stale in folder.glob(".checkpoint-*.tmp"):
        _remove(stale)


def _remove(path: Path) -> None:
    """Removes a folder, a file, or a link and not what it leads to; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _unwritten(final: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {final} could not be written: {why.rstrip('.')}.",
        expected="Earlier checkpoints are untouched.",
        fix="Make room or check the permissions, then pass resume='auto'.",
    )
