"""Whether a run computes the last block at the first position only: where that was tried and found to be the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator

from petune.model.trimming import listening, might_trim, trims_alike
from petune.training.batches import on_device
from petune.training.cacheable import few_rows
from petune.training.trainee import Trainee


@contextmanager
def trimmed(trainee: Trainee, accelerator: Accelerator) -> Iterator[None]:
    """A learner in fitting mode, with its last block trimmed where its head reads the first position alone.

    Some rows are answered in both ways first; random numbers and modes are left alone.
    """
    learner = trainee.learner
    if not trainee.config.trim_last_block or not might_trim(learner):
        yield
        return
    with listening(learner):
        learner.mode(False)
        with accelerator.autocast():
            learner.trims = trims_alike(learner, on_device(few_rows(trainee), accelerator.device))
        learner.mode(True)
        try:
            yield
        finally:
            learner.trims = False
