"""What a paused run consists of, and how it goes on with the same bits.

Besides the weights: the optimizer's tensors, the random state of torch (host and device), numpy and Python for every
process, the step (the order of rows and the learning rate are pure functions of it), the selection and the best
adapter. There is no DataLoader, so nothing else draws from these generators.
"""

from __future__ import annotations

import functools
import os
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from petune.errors import CheckpointError, ConfigError
from petune.storage import checkpoint as storage
from petune.storage.checkpoint import Checkpoint
from petune.storage.sealing import damaged
from petune.training.holding import common
from petune.training.identity import identity_of, refuse_other_run, versions
from petune.training.kept import require_fitting, require_form
from petune.training.ledger import require_finite
from petune.training.ranks.agreement import agree_on_adapter, together
from petune.training.ranks.regrouping import go_on_in_other_processes
from petune.training.selection import Selection

if TYPE_CHECKING:
    from petune.training.run import Run

Tensors = dict[str, Tensor]


def save_if_due(run: Run) -> None:
    """Writes a checkpoint every `save_every` steps and at the end of the run; see `save`."""
    every = run.config.save_every
    if every is not None and (run.step % every == 0 or run.is_over):
        save(run)


def save(run: Run) -> None:
    """Writes a checkpoint of a run that is between two steps. Every process must call it.

    Raises:
        DivergedError: rather than save weights that are not finite.
        CheckpointError: when the disk refuses.
    """
    run.settle()
    with run.watch.a_break():
        require_finite(run.learner.parameters(), run.step, run.rate)
        run.offer()
        agree_on_adapter(run, f"at the checkpoint of step {run.step}")
        tensors, training = capture_training(run.learner, run.optimizer, run.best_state, run.accelerator)
        folder, main = Path(str(run.config.output_dir)), run.accelerator.is_main_process

        def write() -> None:
            storage.write(folder, run.step, tensors, _state(run, training), keep_last=run.config.keep_last)

        together(run.accelerator, write if main else lambda: None)
    run.saved_at = run.step
    run.ledger.restart_clock()


def go_on(runs: Sequence[Run], resume: str | Path | None) -> None:
    """Continues each run from the checkpoint that `resume` means; without one it starts afresh.

    Several runs share the random generators, so these go on from where the one that came the farthest has left them.

    Raises:
        CheckpointError: no such checkpoint, a damaged one, or one of another run (with the differences).
    """
    states = []
    for run in runs:
        together(run.accelerator, functools.partial(_go_on, run, resume))
        forwards = run.step * run.config.gradient_accumulation_steps
        states.append((forwards, random_state(run.accelerator.device)))
    if len(runs) > 1:
        set_random_state(*max(states, key=lambda state: state[0])[1])


def _go_on(run: Run, resume: str | Path | None) -> None:
    config = run.config
    place = Path(str(config.output_dir if resume == "auto" else resume))
    saves = config.save_every is not None
    heard: list[str] = []
    look = functools.partial(_noted, heard, lambda: find(resume, config.output_dir, saves=saves))
    checkpoint = common(run.accelerator, look, place)
    if checkpoint is None:
        run.notices += heard
        return
    kept = checkpoint.state
    require_form(checkpoint)
    refuse_other_run(kept["identity"], identity_of(run), checkpoint.path)
    require_fitting(checkpoint, run)
    try:
        best = reinstate_training(checkpoint, run.learner, run.optimizer, run.accelerator)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:  # words of generators and scaler
        raise damaged(checkpoint.path / storage.STATE, f"it cannot be put back ({error!r})") from error
    run.step, run.history, run.rate = kept["step"], kept["history"], kept["learning_rate"]
    run.saved_at = run.step if resume == "auto" else 0
    if saves and resume == "auto" and run.accelerator.is_main_process:
        storage.tidy(place, config.keep_last)
    run.tokens, run.real_here, run.positions_here = kept["tokens"]
    run.watch.go_on_from(kept["seconds"])
    if run.selection is not None:
        run.selection = Selection(**kept["selection"])
    run.good.keep(run.step)
    if best:
        run.good.state, run.good.step = best, kept["good_step"]
    fresh = [notice for notice in (*heard, *run.notices) if notice not in kept["notices"]]
    fresh += go_on_in_other_processes(run, kept["identity"]["processes"], len(kept["training"]["rng"]))
    if kept["trunk_cached"] != (run.cache is not None):
        fresh.append("The trunk was cached before the stop or is now, and not both: the last bits may differ.")
    elif run.cache is not None and kept["trunk"] != run.trunk_identity:
        fresh.append("The cached trunk is not computed as it was before the stop: the last bits may differ.")
    run.notices = [*kept["notices"], *fresh, f"Resumed after step {run.step} from {checkpoint.path.name}."]
    if (then := kept["training"]["versions"]) != versions():
        run.notices.append(f"The checkpoint was written with {then}, now {versions()}: the last bits may differ.")


def _noted(heard: list[str], work: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """Does some work; what it warns of is added to `heard`, for the report of the run, and warned of as before."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            return work()
    finally:
        for warning in caught:
            heard.append(str(warning.message))
            warnings.warn(warning.message, warning.category, stacklevel=2)


def _state(run: Run, training: Mapping[str, Any]) -> dict[str, Any]:
    """What `go_on` needs besides the tensors; the epoch is there for people."""
    return {
        "step": run.step,
        "epoch": run.course.epoch_of(run.step),
        "steps_into_epoch": run.step - run.course.starts[run.course.epoch_of(run.step)],
        "learning_rate": run.rate,
        "tokens": [run.tokens, run.real_here, run.positions_here],
        "seconds": run.watch.to_json(),
        "selection": run.selection.to_json() if run.selection else None,
        "good_step": run.good.step,
        "trunk_cached": run.cache is not None,
        "trunk": run.trunk_identity,
        "notices": run.notices,
        "identity": identity_of(run),
        "training": training,
        "history": run.history,
    }


def find(resume: str | Path | None, output_dir: str | Path | None, *, saves: bool) -> Checkpoint | None:
    """The checkpoint that `resume=` means, read and verified, or None for a fresh start.

    Args:
        resume: None, `"auto"` (the newest whole one in `output_dir`, if any), a checkpoint, or a folder of them.
        saves: whether this run will write checkpoints.

    Raises:
        CheckpointError: a path without a whole checkpoint; or a run that would mix its own with those of another.
        ConfigError: `"auto"` without `output_dir`.
    """
    if resume is not None and not (isinstance(resume, str | os.PathLike) and str(resume)):
        raise ConfigError(f"resume={resume!r} names no checkpoint.", expected="None, 'auto', or a path was expected.")
    if resume == "auto":
        if output_dir is None:
            raise ConfigError("resume='auto' needs a folder to look into.", fix="Pass TrainConfig(output_dir=...).")
        return storage.newest(Path(output_dir), set_aside=True)
    if resume is not None and not Path(resume).exists():
        raise _nothing_at(Path(resume))
    elsewhere = resume is None or not Path(resume).resolve().is_relative_to(Path(output_dir or "").resolve())
    if saves and elsewhere and output_dir is not None and (there := storage.found(Path(output_dir))):
        raise CheckpointError(
            f"{output_dir} already holds {there[-1].name} of an earlier run.",
            expected="A run does not mix its checkpoints with those of another.",
            fix="Pass resume='auto' to go on with it, or another output_dir, or remove the checkpoints.",
        )
    if resume is None:
        return None
    path = Path(resume)
    ours = saves and not elsewhere
    checkpoint = storage.read(path) if storage.is_checkpoint(path) else storage.newest(path, set_aside=ours)
    if checkpoint is None:
        raise _nothing_at(path)
    return checkpoint


def _nothing_at(path: Path) -> CheckpointError:
    return CheckpointError(
        f"There is no checkpoint at {path}.",
        expected="A checkpoint-00000012 folder, or a folder that holds some, was expected.",
        fix="Check the path, or pass resume='auto'.",
    )


def capture_training(
    learner: Any, optimizer: Any, best: Tensors | None, accelerator: Accelerator
) -> tuple[Tensors, Any]:
    """The tensors of a run, and the part of its state that is no tensor. Every process must call it."""
    tensors = {f"learner/{name}": tensor for name, tensor in learner.state().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    words = []
    for rank, (generators, state) in enumerate(gather_object([random_state(accelerator.device)])):
        tensors |= {f"rng/{rank}/{name}": tensor for name, tensor in generators.items()}
        words.append(state)
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    return (
        {name: tensor.detach().cpu() for name, tensor in tensors.items()},
        {"optimizer": plain, "rng": words, "scaler": scaler, "versions": versions()},
    )


def reinstate_training(
    checkpoint: Checkpoint, learner: Any, optimizer: Any, accelerator: Accelerator
) -> Tensors | None:
    """Puts the weights, the optimizer and every generator back; returns the best adapter's tensors, if any."""
    state = checkpoint.state["training"]
    learner.restore(under(checkpoint.tensors, "learner/"))
    values: dict[int, dict[str, Any]] = {int(index): dict(plain) for index, plain in state["optimizer"].items()}
    for name, tensor in under(checkpoint.tensors, "optimizer/").items():
        index, key = name.split("/", 1)
        values.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    if (rank := accelerator.process_index) < len(state["rng"]):
        set_random_state(under(checkpoint.tensors, f"rng/{rank}/"), state["rng"][rank])
    return under(checkpoint.tensors, "best/") or None


def under(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    """The tensors whose name begins with `prefix`, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def random_state(device: torch.device) -> tuple[Tensors, dict[str, Any]]:
    """The state of every generator that training may draw from: torch's as tensors, the others as JSON."""
    tensors = {"torch": torch.get_rng_state()}
    if device.type != "cpu":
        tensors["device"] = torch.get_device_module(device.type).get_rng_state().cpu()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return tensors, {"python": random.getstate(), "numpy": [kind, [int(key) for key in keys], *rest]}


def set_random_state(tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> None:
    """The inverse of `random_state`; a device state of another kind of machine is left aside."""
    torch.set_rng_state(tensors["torch"])
    if "device" in tensors and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(tensors["device"])
    version, internal, gauss = words["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = words["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
