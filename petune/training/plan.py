"""The plan: what a fit would do and take, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from petune.model.modes import evaluating
from petune.model.probe import probe_inputs
from petune.model.quantizing import count
from petune.tasks.base import Example, Task
from petune.training.batches import Course, length_of
from petune.training.cacheable import UnfitError, refuse
from petune.training.caching import SHARE_OF_MEMORY
from petune.training.free_memory import free_bytes
from petune.training.memory import MEGABYTE, bytes_of
from petune.training.tables import cell, html_table, text_table
from petune.training.timing import time_run

ASSUMED = 128
"""Tokens per row where no data were given."""


@dataclass(frozen=True, repr=False)
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
            what learns gradients, optimizer state and the copy that is kept; the saved activations of one forward; and
            what is held of the trunk's output; or what the timed steps took, if that was more. What an allocator holds
            back comes on top where no step was timed; on a CPU that can be much.
        epochs: of the fit.
        seconds_per_epoch: expected, the mean over the epochs, evaluations left out; None where no step was timed.
        seconds_first_epoch: expected, of the first, in which the trunk's output is computed if it is kept.
        cache_megabytes: of the trunk's output for all rows, in memory or beyond; 0 where nothing is kept.

    Examples:
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
    epochs: int = 1
    seconds_per_epoch: float | None = None
    seconds_first_epoch: float | None = None
    cache_megabytes: float = 0.0

    @property
    def seconds(self) -> float | None:
        """Of the whole fit, evaluations left out."""
        return None if self.seconds_per_epoch is None else self.seconds_per_epoch * self.epochs

    @property
    def trainable_share(self) -> float:
        """Trainable weights over all weights."""
        return self.trainable_parameters / (self.trainable_parameters + self.backbone_parameters)

    def __str__(self) -> str:
        listed = ", ".join(self.sites[:3]) + (f", ... ({len(self.sites)} in all)" if len(self.sites) > 3 else "")
        data = f"{self.rows:,} rows, {self.steps:,} steps; " if self.rows else ""
        timed = "" if self.seconds is None else f"; about {duration(self.seconds)} in all"
        return (
            f"{self.trainable_parameters:,} trainable parameters ({self.trainable_share:.2%}), "
            f"{self.head_parameters:,} of them in the head; sites: {listed or 'none'}; {data}"
            f"estimated peak memory {self.peak_memory_megabytes:,.0f} MB at {self.tokens_per_row} tokens a row{timed}"
        )

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        """What is known, one row each."""
        rows: list[list[Any]] = [
            ["trainable parameters", f"{self.trainable_parameters:,} ({self.trainable_share:.2%})"],
            ["of them in the head", self.head_parameters],
            ["sites", len(self.sites)],
            ["peak memory", f"{self.peak_memory_megabytes:,.0f} MB"],
        ]
        if self.rows:
            rows += [["rows", self.rows], ["steps", self.steps]]
        if self.seconds is not None and self.seconds_per_epoch is not None:
            rows += [["an epoch", duration(self.seconds_per_epoch)], [f"{self.epochs} epochs", duration(self.seconds)]]
        if self.cache_megabytes:
            rows.append(["kept of the trunk", f"{self.cache_megabytes:,.1f} MB"])
        return ["plan", ""], [[name, cell(value)] for name, value in rows]

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())


def duration(seconds: float) -> str:
    """A length of time as one says it.

    Examples:
        >>> duration(0.42), duration(75), duration(8000)
        ('0.4 s', '75 s', '2.2 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def make_plan(
    backbone: Backbone,
    method: Method,
    task: Task,
    config: TrainConfig,
    examples: Sequence[Example] = (),
    tokenizer: Any = None,
    *,
    timed: bool = False,
) -> Plan:
    """Builds a throwaway adapter, counts, times if asked to, and takes it out again.

    Random numbers, weights and flags are as before.

    Args:
        task: learnt, or not yet: then two classes are assumed.
        examples: the encoded training rows; the longest decides the memory.
        timed: whether to take a few steps of the real data with the throwaway adapter.
    """
    config = replace(config, batch_size=config.rows)
    with torch.random.fork_rng(devices=[]):
        adapter = Adapter.make(backbone, "petune plan", method, _with_labels(task))
    bank, device = Bank(backbone), backbone.device
    if method.residence != "private":
        bank.add(adapter)
    try:
        learner = Learner(bank, adapter)
        lengths = [length_of(example) for example in examples]
        tokens = max(lengths, default=min(task.max_length or ASSUMED, backbone.positions or ASSUMED))
        trained = sum(p.numel() for p in learner.parameters() if p.is_floating_point())
        frozen = count(backbone.model)
        kept = _kept_bytes_of_trunk(learner, config, sum(lengths))
        memory, timing = _peak_bytes(learner, config, tokens) / MEGABYTE, None
        if timed and examples:
            timing = time_run(learner, task, tokenizer, examples, config, trunk_kept=kept > 0)
            memory = max(memory, timing.peak_megabytes)
        return Plan(
            tuple(site.path for site in adapter.body.sites),
            trained,
            sum(p.numel() for p in adapter.shell.head().values()),
            frozen - (frozen if method.residence == "private" else 0),
            len(lengths),
            tokens,
            Course(task, examples, config).total if examples else 0,
            memory + min(kept, _room_for_states(config)) / MEGABYTE,
            config.epochs,
            timing.mean(config.epochs) if timing else None,
            timing.first if timing else None,
            kept / MEGABYTE,
        )
    finally:
        if adapter.name in bank.residents:
            bank.remove(adapter.name)
        if backbone.device != device:
            backbone.model.to(device)


def _kept_bytes_of_trunk(learner: Learner, config: TrainConfig, pieces: int) -> float:
    """What the cache of the trunk's output takes; 0 where nothing is kept."""
    try:
        refuse(learner, config)
    except UnfitError:
        return 0.0
    if config.cache_trunk is False:
        return 0.0
    needed = _trunk_bytes(learner) * pieces
    fits = config.cache_trunk is True or config.cache_dir is not None or needed <= _room_for_states(config)
    return needed if fits else 0.0


def _room_for_states(config: TrainConfig) -> float:
    """Bytes of the trunk's output that are held in memory before the rest goes to a file."""
    return free_bytes() / SHARE_OF_MEMORY if config.cache_bytes is None else config.cache_bytes


def _peak_bytes(learner: Learner, config: TrainConfig, tokens: int) -> float:
    """Weights, what learning adds to them, and the activations of one forward."""
    trained = [p for p in learner.parameters() if p.is_floating_point()]
    # Of all that learns: the gradient, AdamW's two moments or SGD's one, and the last good state.
    copies = 1 + (2 if config.optimizer == "adamw" else int(config.momentum > 0)) + 1
    rows = config.rows if config.max_tokens is None else min(config.rows, max(1, config.max_tokens // tokens))
    activations = _saved_bytes(learner, config, tokens) * rows
    return bytes_of(learner.weights()) + bytes_of(trained) * copies + activations


def _trunk_bytes(learner: Learner) -> float:
    """What is kept of the trunk's output, per token."""
    assert learner.trunk is not None
    inputs = probe_inputs(learner.adapter.shell.backbone)
    with evaluating(*learner.adapter.modules()), learner.trunk.listening():
        states = learner.trunk_states(inputs)
    return sum(state.nbytes for state in states) / sum(len(state) * state.shape[1] for state in states[:1])


@dataclass(frozen=True)
class _Guess:
    """A task whose labels are not known yet; two classes are assumed."""

    auto_class: str
    labels: tuple[str, ...]
    rows: int = 0

    def logits(self, output: Any, inputs: Any) -> Tensor:
        """As transformers' model gives them."""
        return output.logits  # type: ignore[no-any-return]

    def own_rows(self) -> int:
        """What markers it would have."""
        return self.rows

    def model_config(self) -> dict[str, Any]:
        """What a head of that size needs."""
        return {"num_labels": len(self.labels) or 2}


def _with_labels(task: Task) -> Any:
    """The task if it has learnt, else a guess from which a head can be built."""
    try:
        task.model_config()
        return task
    except ConfigError:
        return _Guess(task.auto_class, task.labels, task.own_rows())


def _saved_bytes(learner: Learner, config: TrainConfig, tokens: int) -> float:
    """What autograd keeps from a forward of one row: b tokens + c tokens^2, as attention weights grow with the square.

    b and c are counted on rows of 12 and 24 tokens, so that a plan for a large backbone costs little.
    """
    rows = probe_inputs(learner.__dict__["adapter"].shell.backbone)
    if "input_ids" not in rows:  # images and spectra are of one size
        return _kept_bytes(learner, config, {name: row[:1] for name, row in rows.items()})
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
