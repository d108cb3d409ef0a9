"""The plan: what a fit would do, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from petune.config import TrainConfig
from petune.errors import ConfigError
from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.learner import Learner
from petune.model.probe import probe_inputs
from petune.tasks.base import Task
from petune.training.memory import MEGABYTE, bytes_of

ASSUMED = 128
"""Tokens per row where no data were given."""


@dataclass(frozen=True)
class Plan:
    """What a fit would do.

    Args:
        sites: the paths in the backbone where the method acts.
        trainable_parameters: of adapter and head.
        head_parameters: of the head alone.
        backbone_parameters: of the frozen backbone.
        rows, tokens_per_row: of the data, if any was given: the longest row; else the assumed length.
        steps: optimizer steps of the whole fit; 0 without data.
        peak_memory_megabytes: estimated, of what the report's `peak_memory_megabytes` measures: all weights, and for
            what learns gradients, optimizer state and the copy that is kept; and the saved activations of one forward.
            What an allocator holds back comes on top; on a CPU that can be much.

    Example:
        >>> plan = Plan(("a",), 10, 2, 90, 0, 128, 0, 1.0)
        >>> plan.trainable_share
        0.1
    """

    sites: tuple[str, ...]
    trainable_parameters: int
    head_parameters: int
    backbone_parameters: int
    rows: int
    tokens_per_row: int
    steps: int
    peak_memory_megabytes: float

    @property
    def trainable_share(self) -> float:
        """Trainable weights over all weights."""
        return self.trainable_parameters / (self.trainable_parameters + self.backbone_parameters)

    def __str__(self) -> str:
        listed = ", ".join(self.sites[:3]) + (f", ... ({len(self.sites)} in all)" if len(self.sites) > 3 else "")
        data = f"{self.rows:,} rows, {self.steps:,} steps; " if self.rows else ""
        return (
            f"{self.trainable_parameters:,} trainable parameters ({self.trainable_share:.2%}), "
            f"{self.head_parameters:,} of them in the head; sites: {listed or 'none'}; {data}"
            f"estimated peak memory {self.peak_memory_megabytes:,.0f} MB at {self.tokens_per_row} tokens a row"
        )


def make_plan(backbone: Backbone, method: Method, task: Task, config: TrainConfig, lengths: Sequence[int] = ()) -> Plan:
    """Builds a throwaway adapter, counts, and takes it out again; random numbers and flags are as before.

    Args:
        task: learnt, or not yet: then two classes are assumed.
        lengths: pieces per row of the data; the longest row decides the memory.
    """
    with torch.random.fork_rng(devices=[]):
        adapter = Adapter.make(backbone, "petune plan", method, _with_labels(task))
    bank = Bank(backbone)
    if method.residence != "private":
        bank.add(adapter)
    try:
        learner = Learner(bank, adapter)
        tokens = max(lengths, default=min(task.max_length or ASSUMED, backbone.positions or ASSUMED))
        rows_per_step = config.batch_size * config.gradient_accumulation_steps
        trained = [p for p in learner.parameters() if p.is_floating_point()]
        head = sum(p.numel() for p in adapter.shell.head().values())
        frozen = sum(p.numel() for p in backbone.model.parameters())
        in_copy = frozen if method.residence == "private" else 0
        # Of all that learns: the gradient, AdamW's two moments or SGD's one, and the last good state.
        copies = 1 + (2 if config.optimizer == "adamw" else int(config.momentum > 0)) + 1
        weights, learning = bytes_of(learner.weights()), bytes_of(trained) * copies
        activations = _saved_bytes(learner, config, tokens) * config.batch_size
        return Plan(
            tuple(site.path for site in adapter.body.sites),
            sum(p.numel() for p in trained),
            head,
            frozen - in_copy,
            len(lengths),
            tokens,
            -(-len(lengths) // rows_per_step) * config.epochs if lengths else 0,
            (weights + learning + activations) / MEGABYTE,
        )
    finally:
        if adapter.name in bank.residents:
            bank.remove(adapter.name)


@dataclass(frozen=True)
class _Guess:
    """A task whose labels are not known yet; two classes are assumed."""

    auto_class: str
    labels: tuple[str, ...]

    def model_config(self) -> dict[str, Any]:
        """What a head of that size needs."""
        return {"num_labels": len(self.labels) or 2}


def _with_labels(task: Task) -> Any:
    """The task if it has learnt, else a guess from which a head can be built."""
    try:
        task.model_config()
        return task
    except ConfigError:
        return _Guess(task.auto_class, task.labels)


def _saved_bytes(learner: Learner, config: TrainConfig, tokens: int) -> float:
    """What autograd keeps from a forward of one row: b tokens + c tokens^2, as attention weights grow with the square.

    b and c are counted on rows of 12 and 24 tokens, so that a plan for a large backbone costs little.
    """
    rows = probe_inputs(learner.__dict__["adapter"].shell.backbone)
    short = rows["input_ids"].shape[1]
    once = _kept_bytes(learner, config, {name: row[:1] for name, row in rows.items()})
    twice = _kept_bytes(learner, config, {name: row.reshape(1, -1) for name, row in rows.items()})
    square = max(twice - 2 * once, 0) / (2 * short**2)
    return (once / short - square * short) * tokens + square * tokens**2


def _kept_bytes(learner: Learner, config: TrainConfig, inputs: dict[str, Tensor]) -> int:
    """The storages that autograd keeps from one forward, each counted once and those of weights not at all."""
    seen: dict[int, int] = {}
    shell = learner.__dict__["adapter"].shell
    weights = {p.untyped_storage().data_ptr() for p in (*learner.weights(), *shell.model.parameters())}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.random.fork_rng(devices=[]),
        learner.fitting(backbone_dropout=config.backbone_dropout, gradient_checkpointing=config.gradient_checkpointing),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        learner(**inputs)
    return sum(seen.values())
