"""Filling a trunk cache: every row once, before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from petune.data.batching import ordered_batches
from petune.errors import AdapterFileError
from petune.model.learner import Learner
from petune.tasks.base import Example
from petune.training.batches import length_of, on_device
from petune.training.cacheable import Tried, UnfitError
from petune.training.trainee import Trainee
from petune.training.trunk_cache import TrunkCache

AGREE = 1e-3
"""How far states of a file may be from those computed now, over the largest: other bits, but the same backbone."""


def fill(cache: TrunkCache, trainee: Trainee, accelerator: Accelerator, examples: Sequence[Example]) -> None:
    """Computes what is not there yet, this process its share; modes are as before.

    Raises:
        UnfitError: batches that do not tell where their padding is, or no room.
    """
    learner, config, collate = trainee.learner, trainee.config, trainee.task.collate
    batches = ordered_batches([length_of(example) for example in examples], config.rows, config.max_tokens)
    with _answering(learner):
        for rows in batches[accelerator.process_index :: accelerator.num_processes]:
            some = [part for row in rows for part in trainee.task.parts(examples[row])]
            keys = cache.keys(collate(some, trainee.tokenizer).inputs)
            if keys is None:
                raise UnfitError("its batches do not tell where the padding is, or pad on the left.")
            new = {key: row for key, row in zip(keys, some, strict=True) if key not in cache}
            if not new:
                continue
            inputs = collate(list(new.values()), trainee.tokenizer).inputs
            try:
                with accelerator.autocast():
                    states = learner.trunk_states(on_device(inputs, accelerator.device))
                cache.keep(list(new), states, cache.trunk.lengths(inputs) or [])
            except (torch.OutOfMemoryError, AdapterFileError) as error:
                raise UnfitError(f"there was no room for its states ({error})") from error
            if not all(key in cache for key in new):  # the first of several jobs had rows enough for all of it
                raise UnfitError("the memory for its states is full. Pass cache_dir, or a larger cache_bytes.")


def publish(cache: TrunkCache) -> None:
    """Writes what is in memory to the shelf, for other runs and processes.

    Raises:
        UnfitError: the disk refuses.
    """
    try:
        cache.publish()
    except AdapterFileError as error:
        raise UnfitError(f"its states could not be written ({error})") from error


def confirm(cache: TrunkCache, tried: Tried) -> None:
    """Compares what files hold of some rows with what was computed now.

    Raises:
        UnfitError: they are others.
    """
    kept = cache.states(tried.inputs)
    for old, new, length in zip(kept or (), tried.states, cache.trunk.lengths(tried.inputs) or (), strict=False):
        for row, pieces in enumerate(length.tolist()):
            far = (old[row, :pieces].float() - new[row, :pieces].cpu().float()).abs().max()
            if far > AGREE * new.abs().max():
                raise UnfitError("the files in cache_dir hold states of another backbone. Take another folder.")


@contextmanager
def _answering(learner: Learner) -> Iterator[None]:
    """A learner in eval mode for a while, in train mode afterwards."""
    learner.mode(False)
    try:
        yield
    finally:
        learner.mode(True)
