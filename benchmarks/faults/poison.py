"""Training that goes wrong: rates that no run survives, a gradient or a loss that is not finite in mid-training.

A failure is a run that neither stops nor stays finite, an error that does not tell step and rate, a rate that is no
number and is not refused at once, and any weight on the disk that is not finite: what is saved afterwards, and every
checkpoint that was written on the way.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.faults import runs
from benchmarks.faults.saves import room
from petune import Tuner
from petune.errors import ConfigError, TrainingError
from petune.storage import adapter_file, checkpoint
from petune.training.callbacks import Callback
from tests import tiny

COUNT = 11
"""As many as there are kinds."""
POISONED_STEP = 7


class Poison(Callback):
    """After a step, makes the next gradient (a hook) or the next loss (a weight of the head) bad."""

    def __init__(self, tuner: Tuner, what: str, value: float) -> None:
        self.tuner, self.what, self.value = tuner, what, value

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] != POISONED_STEP - 1:
            return
        head = next(iter(self.tuner._bank.residents["default"].shell.model.classifier.parameters()))
        if self.what == "gradient":
            head.register_hook(lambda grad: torch.full_like(grad, self.value))
        else:
            head.data.view(-1)[0] = self.value


class Kind(NamedTuple):
    """One way to go wrong.

    Args:
        ends: "refused" at the start, "stopped" in the middle, or either that or "finite" to the end.
        poison: what is poisoned, and with which value.
    """

    name: str
    ends: tuple[str, ...]
    knobs: dict[str, Any]
    poison: tuple[str, float] | None = None


KINDS = (
    Kind("rate nan", ("refused",), {"learning_rate": math.nan}),
    Kind("rate -1", ("refused",), {"learning_rate": -1.0}),
    Kind("rate inf", ("refused",), {"learning_rate": math.inf}),
    Kind("rate 1e6", ("stopped", "finite"), {"learning_rate": 1e6}),
    Kind("rate 1e6, not clipped", ("stopped", "finite"), {"learning_rate": 1e6, "max_grad_norm": 0.0}),
    Kind("rate 1e30", ("stopped",), {"learning_rate": 1e30}),
    Kind("rate 1e38, sgd", ("stopped",), {"learning_rate": 1e38, "optimizer": "sgd"}),
    Kind("a gradient nan", ("stopped",), {}, ("gradient", math.nan)),
    Kind("a gradient inf, not clipped", ("stopped",), {"max_grad_norm": 0.0}, ("gradient", math.inf)),
    Kind("a loss nan", ("stopped",), {}, ("loss", math.nan)),
    Kind("a loss inf", ("stopped",), {}, ("loss", math.inf)),
)


def run(count: int, seed: int) -> dict[str, Any]:
    """The first `count` kinds; the runs have their own seed."""
    counts: Counter[str] = Counter(runs=0, refused=0, stopped=0, finite=0, adapters_read=0, failures=0)
    told = []
    with room() as place:
        for kind in KINDS[:count]:
            ended, what = _one(Path(place) / kind.name, kind, counts)
            counts["runs"] += 1
            counts[ended] += 1
            if ended not in kind.ends:
                what = f"it ended as {ended}"
            counts["failures"] += what is not None
            told += [f"{kind.name}: {what}"] if what else []
    return {**counts, "kinds": len(KINDS), "told": told[:5]}


def _one(folder: Path, kind: Kind, counts: Counter[str]) -> tuple[str, str | None]:
    """How a run ends, and what is wrong with what it leaves."""
    tuner = runs.tuner("lora")
    try:
        config = runs.config(folder / "run", **kind.knobs)
    except ConfigError as error:
        return "refused", None if "learning_rate" in str(error) else str(error)
    ended, what = "finite", None
    try:
        tuner.fit(tiny.rows(46), tiny.rows(8, seed=3), config, callbacks=_callbacks(tuner, kind))
    except TrainingError as error:
        ended = "stopped"
        if "at step" not in error.what or "learning rate" not in error.what or "step" not in error.expected:
            what = f"the error says: {error}"
    stored = adapter_file.read(tuner.save(folder / "adapter"))  # refuses what is not finite, and so would the save
    counts["adapters_read"] += 1
    tensors = [*stored.head.values(), *(tensor for layer in stored.layers.values() for tensor in layer.values())]
    for path in checkpoint.found(folder / "run"):
        tensors += [it for name, it in checkpoint.read(path).tensors.items() if it.is_floating_point()]
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors)
    return ended, what if finite else "weights that are not finite are on the disk"


def _callbacks(tuner: Tuner, kind: Kind) -> list[Callback]:
    return [] if kind.poison is None else [Poison(tuner, *kind.poison)]
