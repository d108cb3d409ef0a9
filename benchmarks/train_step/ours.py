"""The arms of petune: `Tuner.fit`, with a clock around its loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from transformers import PreTrainedModel

from benchmarks.train_step.outcome import Outcome
from benchmarks.train_step.settings import Settings
from petune import TrainConfig, Tuner
from petune.training import fitting_together, loop


def config(settings: Settings, **knobs: Any) -> TrainConfig:
    """What the arms have in common; the order of the rows and the first weights come from the seed."""
    shared = {"batch_size": settings.batch, "learning_rate": settings.rate, "seed": settings.seed}
    return TrainConfig(**{"epochs": 1, "weight_decay": 0.0, "warmup_ratio": 0.0, "progress": "off", **shared, **knobs})


def tuner(settings: Settings, model: PreTrainedModel, method: Any) -> Tuner:
    """A tuner on a model that is there already; a fit leaves the model as it was."""
    return Tuner(model, task=settings.task, method=method, tokenizer=settings.tokenizer)


def fitted(settings: Settings, model: PreTrainedModel, method: Any, **knobs: Any) -> Outcome:
    """One fit from a fresh adapter; the trunk is run in every epoch, and the last block at every position, unless
    `cache_trunk` and `trim_last_block` say otherwise: then the arm does the same work as the one beside it."""
    mine = tuner(settings, model, method)
    with clocked() as seconds:
        mine.fit(settings.train, config=config(settings, **{"cache_trunk": False, "trim_last_block": False, **knobs}))
    losses = [row["loss"] for row in mine.report.history if "loss" in row]
    return Outcome(sum(seconds), mine.report.real_tokens, losses, lambda: mine.evaluate(settings.test)["accuracy"])


@contextmanager
def clocked() -> Iterator[list[float]]:
    """Collects the seconds of every training loop inside: what `Trainer.train()` does on the other side.

    The filling of a trunk cache is inside of the loop.
    """
    seconds: list[float] = []

    def timed(train: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return train(*args, **more)
            finally:
                seconds.append(time.perf_counter() - started)

        return call

    whole = timed(loop.train_together)
    with patch.object(loop, "train_together", whole), patch.object(fitting_together, "train_together", whole):
        yield seconds
