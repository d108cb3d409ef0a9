"""What is saved while faults happen: an adapter over an older one, and a checkpoint after an older one."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from petune.storage import adapter_file, checkpoint
from petune.storage.stored import Stored
from tests.storage.making import small

HISTORY = [{"step": 1, "loss": 0.5}]


class Subject(NamedTuple):
    """Something that has two generations, 0 and 1.

    Args:
        save: (folder, generation).
        state: the generation that a folder gives, whole and bit for bit; any other is an error.
    """

    name: str
    save: Callable[[Path, int], None]
    state: Callable[[Path], int]


@functools.cache
def generation(number: int) -> Stored:
    """Two adapters that differ in weights and in what scales them: those of one with that of the other are torn."""
    made = small()
    said = copy.deepcopy(made.manifest)
    said["method"]["knobs"]["alpha"] = 8.0 * (number + 1)
    layers = {path: {name: t + number for name, t in named.items()} for path, named in made.layers.items()}
    return Stored(said, layers, {name: t + number for name, t in made.head.items()})


def save_adapter(folder: Path, number: int) -> None:
    """Over what is there."""
    adapter_file.write(folder, generation(number), history=HISTORY * (number + 1))


def adapter_state(folder: Path) -> int:
    """Raises what reading raises; AssertionError for an adapter that is neither."""
    found = adapter_file.read(folder)
    for number in (0, 1):
        made = generation(number)
        same = found.manifest["method"]["knobs"]["alpha"] == made.manifest["method"]["knobs"]["alpha"]
        pairs = [(found.head, made.head), *((found.layers[path], made.layers[path]) for path in made.layers)]
        if same and all(torch.equal(some[name], other[name]) for some, other in pairs for name in other):
            return number
    raise AssertionError(f"{folder} holds neither generation")


@functools.cache
def tensors(number: int) -> dict[str, torch.Tensor]:
    """Of a paused run."""
    return {"learner/a": torch.full((64, 8), number + 1 / 3), "rng/0/torch": torch.arange(99, dtype=torch.uint8)}


def save_checkpoint(folder: Path, number: int) -> None:
    """After the newest, of which the step is even for generation 0; the newest alone is kept."""
    step = max((int(path.name[-8:]) for path in checkpoint.found(folder)), default=1) + 1
    step += step % 2 != number
    checkpoint.write(folder, step, tensors(number), {"step": step}, keep_last=1)


def checkpoint_state(folder: Path) -> int:
    """Raises what reading raises, also for a warning; AssertionError for one that is neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checkpoint.newest(folder)
    assert found is not None, f"{folder} holds no checkpoint"
    number = found.step % 2
    assert found.state == {"step": found.step}
    assert all(torch.equal(tensor, tensors(number)[name]) for name, tensor in found.tensors.items())
    return number


SUBJECTS = (
    Subject("adapter", save_adapter, adapter_state),
    Subject("checkpoint", save_checkpoint, checkpoint_state),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}


def room() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory, where there is such a thing: these faults are none of the disk's, and it need not wait."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="petune-faults-")


def afresh(folder: Path, subject: Subject, number: int = 0) -> None:
    """The folder with one generation in it and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    subject.save(folder, number)


def litter(folder: Path) -> list[str]:
    """What writers that were killed have left."""
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]


def wrong(work: Callable[[], int], allowed: tuple[int, ...] = (0, 1)) -> str | None:
    """What is wrong with what a reader gets; None: it is a generation that may be there."""
    try:
        found = work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if found in allowed else f"generation {found}"
