"""What the processes of `several` do: real methods on tiny backbones, through the Tuner."""

from __future__ import annotations

import hashlib
import os
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import petune
from petune.config import TrainConfig
from petune.training import evaluation, run
from petune.training.ranks.sharding import held_bytes
from petune.tuner import Tuner
from tests import tiny
from tests.conformance import subjects
from tests.training.crews import still

RANK = int(os.environ.get("RANK", "0"))
STEADY: dict[str, Any] = {
    "progress": "off", "optimizer": "sgd", "learning_rate": 0.05, "epochs": 2, "batch_size": 4, "cache_trunk": False,
}  # fmt: skip


def tuner(method: str, family: str = "bert", task: str = "single", model: Any = None, **knobs: Any) -> Tuner:
    """A tuner without dropout on a tiny backbone."""
    shape = subjects.blank_task(task)
    home = still(family) if model is None else model
    return Tuner(
        home, name="mine", method=subjects.method(method, **knobs), task=shape, tokenizer=tiny.tokenizer(family)
    )


def trained(
    method: str,
    rows: int = 27,
    tested: int = 5,
    family: str = "bert",
    task: str = "single",
    save: str = "",
    resume: str | None = None,
    knobs: dict[str, Any] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """Fits one adapter, and looks at the backbone in the middle and afterwards.

    Args:
        knobs: of the method.
        config: of `TrainConfig`, on top of `STEADY`.
    """  # fmt: skip
    mine = tuner(method, family, task, **(knobs or {}))
    model = mine.backbone.model
    before = subjects.snapshot(model)
    kinds, objects = _kinds(model), [id(p) for p in model.parameters()]
    held = [held_bytes(model)]

    def evaluate(*args: Any, **given: Any) -> Any:
        held.append(held_bytes(model))
        return evaluation.evaluate(*args, **given)

    data = subjects.rows(task, rows)
    evaluated = subjects.rows(task, rows + tested)[rows:] if tested else None
    with patch.object(run, "evaluate", evaluate):
        mine.fit(data, evaluated, TrainConfig(**{**STEADY, **config}), resume=resume)
    if save and RANK == 0:
        mine.save(save)
    return {
        **of(mine),
        "predicted": [float(x) for x in _flat(mine, data[:6])],
        "held": held,
        "whole": held_bytes(model),
        "bits": subjects.same(before, subjects.snapshot(model)),
        "kinds": kinds == _kinds(model),
        "objects": objects == [id(p) for p in model.parameters()],
    }


def of(mine: Tuner) -> dict[str, Any]:
    """What a fit came to."""
    tensors = mine.adapter.tensors()
    state = {f"{path}:{name}": t for path, named in tensors.items() for name, t in named.items()}
    state |= mine.adapter.head()
    history = mine.report.history
    return {
        "losses": [row["loss"] for row in history if "loss" in row],
        "evaluations": [
            {k: v for k, v in row.items() if k.startswith("eval_")} for row in history if "loss" not in row
        ],
        "digest": digest(state),
        "state": {name: tensor.tolist() for name, tensor in state.items()},
        "notices": mine.report.notices,
        "tokens": mine.report.real_tokens,
        "trained": mine.report.trainable_parameters,
    }


def digest(state: dict[str, Tensor]) -> str:
    """Equal for equal bits."""
    made = hashlib.sha256()
    for name in sorted(state):
        made.update(name.encode() + state[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return made.hexdigest()


def _flat(mine: Tuner, data: list[dict[str, Any]]) -> list[Any]:
    if "label" not in data[0]:
        return []
    return mine.predict_proba([row["text"] for row in data]).ravel().tolist()


def _kinds(model: torch.nn.Module) -> list[Any]:
    """Classes, and what lies in the modules' dictionaries."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules() if not m._forward_hooks]
    return [[type(m).__name__, sorted(m.__dict__)] for m in model.modules()] + [sum(hooks)]


def launched(environment: dict[str, str], **job: Any) -> dict[str, Any]:
    """A job under the words of a launcher: what it came to or why not, and whether the words still stand."""
    os.environ.update(environment)
    try:
        made = trained(**job)
    except petune.PetuneError as error:
        made = {"error": f"{type(error).__name__}: {error}"}
    finally:
        stand = all(os.environ.pop(name, None) == word for name, word in environment.items())
    return {**made, "stand": stand}


def evaluated(sizes: list[int], **config: Any) -> dict[str, Any]:
    """For each number of rows: the last evaluation of a fit, and what this process finds by itself afterwards."""
    made = {}
    for size in sizes:
        mine, data = tuner("lora"), tiny.rows(27 + size)
        # A fit may leave out what no head reads, which changes the last bit; here every position is computed in both.
        settings = TrainConfig(**{**STEADY, "keep_best": False, "epochs": 1, "trim_last_block": False, **config})
        mine.fit(data[:27], data[27:], settings)
        last = mine.report.history[-1]
        figures = {name.removeprefix("eval_"): value for name, value in last.items() if name.startswith("eval_")}
        alone = mine.evaluate(data[27:], batch_size=settings.rows)
        made[str(size)] = {
            "together": figures, "alone": {name: alone[name] for name in figures}, "rows": alone.rows,
            "answers": mine.predict([row["text"] for row in data[27:]]),
        }  # fmt: skip
    return made


def broken(alone: bool = False, **config: Any) -> dict[str, Any]:
    """Every process leaves a run in the middle by an error; the backbone is whole again, and learns again.

    Args:
        alone: each is told that the others did not come.
    """
    mine = tuner("lora")
    before = subjects.snapshot(mine.backbone.model)
    calls: list[int] = []

    def stop(y_true: Any, y_pred: Any) -> float:
        calls.append(len(calls))
        if len(calls) == 2:  # the first call is the rehearsal before the run
            raise KeyboardInterrupt
        return 0.0

    data = tiny.rows(32)
    settings = {**STEADY, **config}
    late = patch("torch.distributed.monitored_barrier", side_effect=RuntimeError("Rank 1 timed out"))
    kinds = _kinds(mine.backbone.model)
    try:
        with late if alone else nullcontext():
            mine.fit(data[:27], data[27:], TrainConfig(**settings, metrics=(stop,)))
    except KeyboardInterrupt as error:
        if alone:
            return {"notes": error.__notes__, "kinds": kinds == _kinds(mine.backbone.model)}
        bits = subjects.same(before, subjects.snapshot(mine.backbone.model))
        return {"bits": bits, **of(mine.fit(data[:27], None, TrainConfig(**settings)))}
    return {"bits": None}
