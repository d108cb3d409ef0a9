"""FSDP2: the frozen weights lie in shards, one per process, and are whole only while their block runs.

    between forwards a process holds   F / N + A        F: frozen bytes, N: processes, A: adapter, head, optimizer

torch's `fully_shard` is applied to every block of the backbone and to the task's model around them, so hooks gather a
block's weights before its forward and its backward and let them go after it. The adapter and the head, a percent of the
weights or less, are no part of it: every process holds them whole and DDP averages their gradients, so methods that
look at whole tensors (AdaLoRA's budget), checkpoints, guards and adapter files are what they are without shards.

When the run ends the very Parameter objects of before hold the very bits of before, and the modules are of their old
classes without hooks of torch's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from petune.errors import ConfigError, TrainingError
from petune.lookup import name_of
from petune.training.memory import MEGABYTE, bytes_of
from petune.training.ranks.asking import wanted
from petune.training.trainee import Trainee

if TYPE_CHECKING:
    from petune.model.learner import Learner

PATIENCE, IN_HASTE = timedelta(minutes=10), timedelta(seconds=30)
"""How long a process that ends its run, well or by an error, waits for the others to end theirs."""


def refuse_unsharded(trainees: Sequence[Trainee], accelerator: Accelerator) -> None:
    """Refuses what was asked for and cannot be, before anything is computed: nothing falls back in silence.

    Raises:
        ConfigError: one process, weights that are no plain frozen tensors, or a compiled backbone.
    """
    if not any(wanted(trainee.config) for trainee in trainees):
        return
    if accelerator.num_processes == 1:
        raise ConfigError(
            "sharding='fsdp2' was asked for in one process.",
            expected="Weights are sharded over two processes or more.",
            fix="Start the script with `torchrun --nproc-per-node N`, or leave sharding out.",
        )
    for trainee in trainees:
        if reason := _reason_against(trainee):
            raise ConfigError(f"sharding='fsdp2' was asked for, but {reason[0]}.", fix=reason[1])


def _reason_against(trainee: Trainee) -> tuple[str, str] | None:
    """Why a learner's backbone cannot be sharded, and what to do; None: it can."""
    learner = trainee.learner
    method, backbone = learner.method, learner.adapter.shell.backbone
    if method.residence == "private":
        return f"{name_of('methods', method)!r} trains every weight", "Use an adapter method, or leave sharding out."
    if backbone.quantized:
        return f"the backbone is quantised ({backbone.quantized})", "Leave sharding out, or quantize."
    compiled = any(module._compiled_call_impl is not None for module in backbone.model.modules())
    if trainee.config.compile or compiled:
        return "blocks are compiled, and weights come and go around their calls", "Leave compile or sharding out."
    return None


@contextmanager
def sharded(trainees: Sequence[Trainee], accelerator: Accelerator) -> Iterator[list[Trainee]]:
    """Inside, the frozen weights of a learner in fitting mode lie in shards, where that was asked for.

    Every process must enter and leave it. One that leaves by an error waits a little for the others; where they do not
    come, its backbone has no weights any more, and the error says so.

    Yields:
        the trainees, whose report tells of it.
    """
    if not any(wanted(trainee.config) for trainee in trainees):
        yield list(trainees)
        return
    (trainee,) = trainees  # several processes train one adapter
    shards = _Shards(trainee.learner, accelerator.device, accelerator.num_processes)
    try:
        yield [replace(trainee, notices=[*trainee.notices, shards.told()])]
    except BaseException as error:
        try:
            shards.join(IN_HASTE)
        except TrainingError as lost:
            error.add_note(str(lost))
        raise
    shards.join(PATIENCE)


def held_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters in this process now: of one that is sharded its own shards."""
    return bytes_of(_local(parameter) for parameter in model.parameters())


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


class _Shards:
    """One learner's frozen weights in shards.

    Args:
        learner: its backbone is on `device`, its frozen parameters need no gradient.
        device: of this process.
        processes: over which they are sharded.
    """

    def __init__(self, learner: Learner, device: torch.device, processes: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # these two take a second to import
        from torch.distributed.fsdp import fully_shard

        self._root: nn.Module = learner.adapter.shell.model
        self._processes = processes
        self._meeting = dist.new_group(backend="gloo")
        """Where the processes wait for each other: a group that can be waited at for a bounded time."""
        learnt = {id(parameter) for parameter in learner.parameters()}
        ignored = {p for p in self._root.parameters() if id(p) in learnt or not p.dim() or not p.is_contiguous()}
        self._places = [
            (module, name, parameter)
            for module in self._root.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter not in ignored
        ]
        self._before = [(module, type(module), set(module.__dict__)) for module in self._root.modules()]
        self.whole_bytes = bytes_of(parameter for parameter in dict.fromkeys(p for _, _, p in self._places))
        mesh = init_device_mesh(device.type, (processes,))
        put = functools.partial(fully_shard, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
        for _, block in _blocks(learner):
            put(block)
        put(self._root)
        self.own_bytes = bytes_of(_local(p) for p in dict.fromkeys(m._parameters[name] for m, name, _ in self._places))
        for _, _, parameter in self._places:
            parameter.data = parameter.data.new_empty(0)  # the object stays, and comes back full

    def told(self) -> str:
        """What the report says."""
        return (
            f"The frozen weights, {self.whole_bytes / MEGABYTE:,.1f} MB, lie in shards (fsdp2): each of "
            f"{self._processes} processes keeps {self.own_bytes / MEGABYTE:,.1f} MB between forwards."
        )

    @torch.no_grad()
    def join(self, patience: timedelta) -> None:
        """Makes every weight whole again in every process.

        Raises:
            TrainingError: the others did not come; the modules are bare, but the weights are gone.
        """
        missing = self._missing(patience)
        for module, _, _ in self._before:
            if hasattr(module, "reshard"):
                module.reshard()
        whole: set[nn.Parameter] = set()
        for module, name, parameter in self._places:
            shard: Any = module._parameters[name]
            if parameter not in whole and not missing:
                parameter.data = shard.full_tensor()
                whole.add(parameter)
            module._parameters[name] = parameter
        self._bare()
        if missing:
            raise TrainingError(
                "The backbone's weights lay in shards, and the other processes did not come to join them.",
                expected="Every process ends a run together.",
                fix="Open the backbone anew, in a new Tuner.",
            ) from missing

    def _missing(self, patience: timedelta) -> RuntimeError | None:
        """Waits for all processes; the error of those that did not come in time."""
        try:
            dist.monitored_barrier(self._meeting, timeout=patience)
        except RuntimeError as error:
            return error
        return None

    def _bare(self) -> None:
        """Takes torch's hooks, notes and classes off the modules."""
        from torch.distributed._composable_state import _module_state_mapping

        for module, kind, names in self._before:
            if isinstance(module, kind) and type(module) is not kind:
                state: Any = module._get_fsdp_state()  # type: ignore[operator]
                state._pre_forward_hook_handle.remove()
                state._post_forward_hook_handle.remove()
                module.__class__ = kind
                _module_state_mapping.pop(module, None)
            for name in set(module.__dict__) - names:
                del module.__dict__[name]


def _blocks(learner: Learner) -> list[tuple[str, nn.Module]]:
    """(path, block) of the backbone that are sharded each by itself; an architecture outside of the table has none."""
    shell = learner.adapter.shell
    return shell.backbone.blocks(shell.base)
