"""What a checkpoint must hold so that this run can go on with it, checked before anything of the run is changed.

The digests of a checkpoint tell damage, not authors: a file that was made by somebody else is whole as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from petune.storage.checkpoint import STATE, TENSORS, Checkpoint
from petune.storage.sealing import damaged
from petune.training.selection import Selection

if TYPE_CHECKING:
    from petune.training.run import Run

Types = tuple[type, ...]
_NUMBER: Types = (int, float)
_STATE: dict[str, Types] = {
    "step": (int,),
    "good_step": (int,),
    "learning_rate": _NUMBER,
    "tokens": (list,),
    "seconds": (list,),
    "selection": (dict, type(None)),
    "trunk_cached": (bool,),
    "trunk": (dict, str, type(None)),
    "notices": (list,),
    "identity": (dict,),
    "training": (dict,),
    "history": (list,),
}
_TRAINING: dict[str, Types] = {
    "optimizer": (dict,),
    "rng": (list,),
    "scaler": (dict, type(None)),
    "versions": (dict,),
}
_OF_OPTIMIZER = {"adamw": ("exp_avg", "exp_avg_sq", "step"), "sgd": ("momentum_buffer",)}
"""What an optimizer keeps for each parameter that it has moved; plain SGD keeps nothing."""


def require_form(checkpoint: Checkpoint) -> None:
    """Looks at the keys of the state and the types of their values.

    Raises:
        CheckpointError: with the file and the key.
    """
    state = checkpoint.state
    _types(checkpoint, "", state, _STATE)
    _types(checkpoint, "training.", state["training"], _TRAINING)
    _types(checkpoint, "identity.", state["identity"], {"processes": (int,)})
    for key, count, types in (("tokens", 3, (int,)), ("seconds", 2, _NUMBER)):
        _need(checkpoint, key, len(state[key]) == count and all(type(one) in types for one in state[key]))
    _need(checkpoint, "history", all(isinstance(row, dict) for row in state["history"]))
    _need(checkpoint, "notices", all(isinstance(notice, str) for notice in state["notices"]))
    if state["selection"] is not None:
        known = {field.name for field in dataclasses.fields(Selection)}
        _need(checkpoint, "selection", set(state["selection"]) == known)
    _need(checkpoint, "step", state["step"] == checkpoint.step)


def require_fitting(checkpoint: Checkpoint, run: Run) -> None:
    """Compares the tensors with those that this run has: names, shapes, types, and that they are finite.

    Raises:
        CheckpointError: with the file, and the tensor or the key.
    """
    state, there = checkpoint.state, checkpoint.tensors
    began_with, course = state["identity"]["processes"], run.course
    if began_with != course.world:  # planning an epoch goes through all rows
        course = dataclasses.replace(course, planned_for=began_with)
    _need(checkpoint, "step", state["step"] <= course.total)
    _need(checkpoint, "good_step", 0 <= state["good_step"] <= state["step"])
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in run.learner.state().items()}
    parts = ["learner/"]
    chosen = run.config.keep_best and state["selection"] and state["selection"]["best_step"] is not None
    if chosen or any(name.startswith("best/") for name in there):
        parts.append("best/")
    expected = {f"{part}{name}": form for part in parts for name, form in wanted.items()}
    skipped = run.accelerator.scaler is not None and not any(name.startswith("optimizer/") for name in there)
    expected |= {} if skipped else _of_optimizer(run, state["step"])  # fp16 may leave the first steps out
    for rank in range(len(state["training"]["rng"])):
        expected[f"rng/{rank}/torch"] = (torch.get_rng_state().shape, torch.uint8)
    others = [name for name in there if not (name.startswith("rng/") and name.endswith("/device"))]
    _same(checkpoint, others, expected)


def _of_optimizer(run: Run, step: int) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """The tensors of the optimizer after so many steps."""
    kept = _OF_OPTIMIZER[run.config.optimizer]
    if step == 0 or (run.config.optimizer == "sgd" and not run.config.momentum):
        return {}
    parameters = [one for group in run.optimizer.param_groups for one in group["params"]]
    scalar = torch.Size(()), torch.float32
    return {
        f"optimizer/{index}/{name}": scalar if name == "step" else (one.shape, one.dtype)
        for index, one in enumerate(parameters)
        for name in kept
    }


def _same(checkpoint: Checkpoint, names: Iterable[str], expected: Mapping[str, tuple[torch.Size, torch.dtype]]) -> None:
    path, there = checkpoint.path / TENSORS, checkpoint.tensors
    if wrong := sorted(set(names) ^ set(expected)):
        lacks = "lacks" if wrong[0] in expected else "has"
        raise damaged(path, f"it {lacks} the tensor {wrong[0]!r}, and this run is otherwise")
    for name, (shape, dtype) in expected.items():
        tensor = there[name]
        if tensor.shape != shape or tensor.dtype != dtype:
            now, then = (f"{kind} {tuple(size)}" for kind, size in ((dtype, shape), (tensor.dtype, tensor.shape)))
            raise damaged(path, f"its tensor {name!r} is {then}, in this run it is {now}")
        if not _finite(tensor):
            raise damaged(path, f"its tensor {name!r} holds values that are NaN or infinite")


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _types(checkpoint: Checkpoint, prefix: str, values: Mapping[str, Any], types: Mapping[str, Types]) -> None:
    for key, allowed in types.items():
        _need(checkpoint, f"{prefix}{key}", key in values and type(values[key]) in allowed)


def _need(checkpoint: Checkpoint, key: str, fine: bool) -> None:
    if not fine:
        raise damaged(checkpoint.path / STATE, f"{key!r} is not there, or is not what petune writes")
