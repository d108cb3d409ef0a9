"""What makes two runs the same run: a checkpoint is resumed by the one it belongs to and by no other."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from petune.errors import CheckpointError
from petune.lookup import name_of
from petune.tasks.base import Example

if TYPE_CHECKING:
    from petune.training.run import Run

MAY_CHANGE = (
    "output_dir",
    "save_every",
    "keep_last",
    "progress",
    "log_with",
    "process_timeout",
    "cache_dir",
    "cache_bytes",
    "sharding",
)
"""Knobs of `TrainConfig` that a resumed run may set anew."""


def identity_of(run: Run) -> dict[str, Any]:
    """Everything that decides the bits of a run, as JSON: settings, method, task, data, shapes, processes."""
    method, task = run.learner.method, run.task
    return {
        "config": {name: value for name, value in plain(run.config).items() if name not in MAY_CHANGE},
        "method": {"name": name_of("methods", method), **plain(method)},
        "task": {"name": name_of("tasks", task), **plain(task)},
        **run.trainee.row_digests,
        "trained": {name: list(tensor.shape) for name, tensor in run.learner.named_parameters()},
        "processes": run.course.planned_for or run.course.world,
        **plain(dict(run.more_identity)),
    }


def refuse_other_run(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Compares the identity of a checkpoint with that of this run; `petune.training.ranks.regrouping` sees to another
    number of processes.

    Raises:
        CheckpointError: with one line per difference.
    """
    before, after = _flat({**then, "processes": 0}), _flat({**now, "processes": 0})
    names = [name for name in sorted({*before, *after}) if before.get(name, "absent") != after.get(name, "absent")]
    causes = [name for name in names if not name.startswith("trained.")]
    lines = [_difference(name, before, after) for name in causes or names]
    if lines:
        raise CheckpointError(
            f"The checkpoint {path} belongs to another run:\n" + "\n".join(lines) + "\n",
            expected=f"Only {', '.join(MAY_CHANGE)} and the number of processes may change on resume.",
            fix="Use the same settings and data, or start afresh in another output_dir.",
        )


def _difference(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if name.endswith(" rows") and name in before and name in after:
        return f"  {name}: other rows than then, or in another order"
    return f"  {name}: {before.get(name, 'absent')!r} in the checkpoint, {after.get(name, 'absent')!r} now"


def versions() -> dict[str, str]:
    """What the bits of a run depend on besides its settings."""
    threads = str(torch.get_num_threads())
    return {"torch": torch.__version__, "numpy": np.__version__, "machine": platform.machine(), "threads": threads}


def fingerprint(examples: Sequence[Example] | None) -> str | None:
    """A digest of encoded rows in their order, labels included; None for no rows.

    Examples:
        >>> fingerprint([{"input_ids": [1, 2]}]) == fingerprint([{"input_ids": [1, 2]}])
        True
        >>> fingerprint([{"input_ids": [1, 2]}]) == fingerprint([{"input_ids": [2, 1]}])
        False
    """
    if examples is None:
        return None
    digest = hashlib.sha256()
    for example in examples:
        # Lists of numbers are what a row is made of; going through them one by one would take seconds.
        pairs = [(name, value if isinstance(value, list) else _said(value)) for name, value in sorted(example.items())]
        digest.update(repr(pairs).encode())
    return digest.hexdigest()


def _said(value: Any) -> Any:
    """A value of an example; of pictures and sounds the digest of their numbers."""
    if not hasattr(value, "__array__") or np.ndim(value) == 0:
        return plain(value)
    numbers = np.ascontiguousarray(value)
    return str(numbers.dtype), numbers.shape, hashlib.sha256(numbers.tobytes()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON knows it, the same in every process: no addresses, sets in order."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path | torch.dtype):
        return str(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix.rstrip("."): value}
    return {name: leaf for key, item in value.items() for name, leaf in _flat(item, f"{prefix}{key}.").items()}
