"""The guard: all processes have read the same rows, follow the same knobs, and hold the same adapter.

Each check is a digest that is gathered by every process, so all of them see the same answer and stop together. The
adapter is looked at once it is wrapped (that is when the main process's weights have gone to all), after the first
step, at every checkpoint and at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from petune.errors import ConfigError, DataError, PetuneError, ProcessError
from petune.lookup import name_of
from petune.storage.container import digest
from petune.tasks.base import Example
from petune.training.identity import fingerprint, plain
from petune.training.trainee import Trainee

if TYPE_CHECKING:
    from petune.training.run import Run

T = TypeVar("T")
OWN = ("output_dir", "cache_dir", "cache_bytes", "progress")
"""Knobs that each machine may set its own way."""
SHOWN = 5
"""Differences that a message tells."""


def together(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Does something on every process; where one fails, all do, with the reason of the first.

    Raises:
        PetuneError: that reason; any other exception of another process comes as a `ProcessError`.
    """
    if accelerator.num_processes == 1:
        return work()
    made, mine = None, None
    try:
        made = work()
    except Exception as error:
        mine = error
    told = mine if mine is None or isinstance(mine, PetuneError) else _foreign(mine, accelerator.process_index)
    first = next((error for error in gather_object([told]) if error is not None), None)
    if mine is not None:
        raise mine
    if first is not None:
        raise first
    return made  # type: ignore[return-value]


def _foreign(error: Exception, rank: int) -> ProcessError:
    """An exception of this process as the others hear of it."""
    return ProcessError(f"Rank {rank} stopped: {type(error).__name__}: {error}", expected="All ranks stop with it.")


def agree_on_run(accelerator: Accelerator, trainee: Trainee, resume: str | Path | None) -> None:
    """Compares rows, knobs, backbone and the adapter's shapes over all processes, before anything is trained.

    Raises:
        DataError: a process has read other rows, with the first one that differs.
        ConfigError: another difference, one line for each.
    """
    if accelerator.num_processes == 1:
        return
    mine = facts_of_run(trainee, resume)
    everyones = gather_object([mine])
    if (wrong := _unlike_the_first(everyones)) is None:
        return
    for what, rows in (("training", trainee.examples), ("evaluation", trainee.eval_examples)):
        if everyones[0][f"{what} rows"] != everyones[wrong][f"{what} rows"]:
            _refuse_rows(what, rows or (), wrong)
    ours, theirs = dict(_flat(everyones[0])), dict(_flat(everyones[wrong]))
    lines = [
        f"  {name}: {ours.get(name, 'absent')!r} on rank 0, {theirs.get(name, 'absent')!r} on rank {wrong}"
        for name in sorted({*ours, *theirs})
        if ours.get(name, "absent") != theirs.get(name, "absent")
    ]
    raise ConfigError(
        "The processes of this run do not agree:\n" + "\n".join(lines[:SHOWN]) + "\n",
        expected="All run the same script with the same settings, on the same backbone.",
        fix="Let nothing but the rank differ between them.",
    )


def facts_of_run(trainee: Trainee, resume: str | Path | None) -> dict[str, Any]:
    """What every process must have alike, as JSON."""
    method, task, config = trainee.learner.method, trainee.task, plain(trainee.config)
    return {
        "config": {name: value for name, value in config.items() if name not in OWN},
        "resume": None if resume is None else Path(resume).name,
        "method": {"name": name_of("methods", method), **plain(method)},
        "task": {"name": name_of("tasks", task), **plain(task)},
        **trainee.row_digests,
        "trained": {name: list(tensor.shape) for name, tensor in trainee.learner.named_parameters()},
        **plain(dict(trainee.identity)),
    }


def _refuse_rows(what: str, rows: Sequence[Example], wrong: int) -> None:
    """Raises DataError with the first row that differs; every process calls it."""
    everyones = gather_object([[fingerprint([row]) for row in rows]])
    ours, theirs = everyones[0], everyones[wrong]
    row = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    raise DataError(
        f"Rank {wrong} has read other {what} rows than rank 0: {len(theirs)} and {len(ours)} of them, and the first "
        f"difference is in row {row}, counted from 0.",
        expected="Every process reads all rows and takes its share of them by itself.",
        fix="Give all the same file, in the same order; do not split or shuffle the data by rank.",
    )


def agree_on_adapter(run: Run, when: str) -> None:
    """Compares every tensor that training changes, bit for bit, over all processes.

    Args:
        when: for the message, such as `"after the first step"`.

    Raises:
        ProcessError: on every process; it names the ranks that differ from the main one, and the first such tensor.
    """
    if run.accelerator.num_processes == 1:
        return
    mine = digests(run.learner.state())
    whole = hashlib.sha256(json.dumps(mine).encode()).hexdigest()
    everyones = gather_object([(whole, run.step)])
    if len(set(everyones)) == 1:
        return
    steps = [step for _, step in everyones]
    if len(set(steps)) > 1:
        told = ", ".join(f"{step} on rank {rank}" for rank, step in enumerate(steps))
        raise _apart(when, f"Their steps are {told}.", "Give all machines the same output_dir, which all of them see.")
    tables = gather_object([mine])
    wrong = [rank for rank, table in enumerate(tables) if table != tables[0]]
    other = tables[wrong[0]]
    first = next(name for name in [*tables[0], *other] if tables[0].get(name) != other.get(name))
    count = sum(tables[0].get(name) != other.get(name) for name in {*tables[0], *other})
    ranks = f"Rank {wrong[0]} differs" if len(wrong) == 1 else f"Ranks {', '.join(map(str, wrong))} differ"
    raise _apart(when, f"{ranks} from rank 0 in {count} of {len(other)} tensors, the first of them {first!r}.")


def _apart(when: str, what: str, fix: str = "") -> ProcessError:
    return ProcessError(
        f"The processes no longer train the same adapter, {when}. {what}",
        expected="Every rank holds the same bits; this run was stopped on all of them, and nothing of it was kept.",
        fix=fix or "Look for code that acts on one rank only (a callback, a hook, a method of your own).",
    )


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> a digest of shape, type and bits.

    Examples:
        >>> import torch
        >>> one, other = digests({"a": torch.zeros(2)}), digests({"a": torch.zeros(2, 1)})
        >>> one == digests({"a": torch.zeros(2)}), one == other
        (True, False)
    """
    return {name: f"{tuple(tensor.shape)} {tensor.dtype} {digest(tensor)}" for name, tensor in tensors.items()}


def _unlike_the_first(facts: Sequence[Any]) -> int | None:
    """The first rank whose facts are not those of rank 0."""
    return next((rank for rank, theirs in enumerate(facts) if theirs != facts[0]), None)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and leaf of a nested mapping."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, item in value.items():
        yield from _flat(item, f"{prefix}.{key}".lstrip("."))
