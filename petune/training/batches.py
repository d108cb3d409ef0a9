"""From the plan of an epoch to tensors on the device: a plain generator, so no random number is drawn on the way."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from petune.config import TrainConfig
from petune.data.batching import plan_epoch
from petune.model.trunk import States
from petune.tasks.base import Batch, Example, Task
from petune.training.ranks.regrouping import regrouped

if TYPE_CHECKING:
    from petune.training.trunk_cache import TrunkCache

Name = TypeVar("Name", str, int)


class MicroBatch(NamedTuple):
    """What one process gives to one forward."""

    inputs: dict[str, Tensor]
    labels: Tensor
    last: bool
    """Whether the optimizer step follows, so gradients are exchanged and the penalty is added."""
    positions: int = 0
    """Of the forward, those that only pad included."""
    counts: bool = True
    """Whether its loss is a part of the step's; False where a process has no rows, but takes part in the forward."""
    more: Mapping[str, Any] = {}
    """What the learner's forward is given besides: `trunk_states` where they are known, `at` where a loss falls, and
    `host_mask` where the host would have to wait for the mask."""


class PlannedStep(NamedTuple):
    """One optimizer step, with the numbers that every process knows without asking the others."""

    micro: list[list[list[int]]]
    """`micro[m][rank]`: row indices."""
    epoch: int
    """From 0."""
    ends_epoch: bool
    items: int
    """Supervised items of the whole step, over all forwards and processes."""
    tokens: int
    """Real pieces of the whole step, over all forwards and processes."""


def length_of(example: Example) -> int:
    """Pieces of an example: rows of similar length share batches, and speeds are told in pieces a second.

    Examples:
        >>> length_of({"input_ids": [5, 6]}), length_of({"pixel_values": "an array", "_pieces": 257})
        (2, 257)
    """
    known: int | None = example.get("_pieces")
    return len(example["input_ids"]) if known is None else known


def positions_of(inputs: Mapping[str, Tensor], lengths: Sequence[int]) -> int:
    """Positions of a batch, those that only pad included."""
    ids = inputs.get("input_ids")
    return len(lengths) * max(lengths) if ids is None else ids.numel()


@dataclass
class Course:
    """Which rows are seen when, over the whole run.

    Args:
        task: counts the supervised items.
        examples: all training rows; every process holds all of them.
        config: batch size, accumulation, seed, epochs.
        world: processes.
        planned_for: processes that the run began with, where they were others.
    """

    task: Task
    examples: Sequence[Example]
    config: TrainConfig
    world: int = 1
    planned_for: int | None = None
    starts: list[int] = field(init=False)
    """The number of the first step of each epoch, counted from 0; a budget of tokens may make epochs differ."""
    total: int = field(init=False)
    """Optimizer steps of the whole run."""

    def __post_init__(self) -> None:
        self._lengths = [length_of(example) for example in self.examples]
        self._counts = [self.task.count(example) for example in self.examples]
        first, epochs = len(self._plan(0)), range(self.config.epochs)
        sizes = [first if self.config.max_tokens is None else len(self._plan(epoch)) for epoch in epochs]
        *self.starts, self.total = itertools.accumulate(sizes, initial=0)

    def epochs_at(self, step: int) -> float:
        """How many epochs are done after so many steps.

        Examples:
            >>> from petune.tasks.sequence_classification import SequenceClassification
            >>> course = Course(SequenceClassification(), [{"input_ids": [1]}] * 8, TrainConfig(batch_size=2))
            >>> course.epochs_at(6)
            1.5
        """
        epoch = self.epoch_of(step)
        return epoch + (step - self.starts[epoch]) / (self._end(epoch) - self.starts[epoch])

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, that goes on once so many steps are done; the last one goes on for good."""
        return bisect.bisect_right(self.starts, step) - 1

    def _end(self, epoch: int) -> int:
        return [*self.starts, self.total][epoch + 1]

    def _plan(self, epoch: int) -> list[list[list[list[int]]]]:
        config = self.config
        steps = plan_epoch(
            self._lengths,
            batch_size=config.rows,
            accumulation=config.gradient_accumulation_steps,
            seed=config.seed,
            epoch=epoch,
            group_by_length=config.group_by_length,
            world=self.planned_for or self.world,
            max_tokens=config.max_tokens,
        )
        if self.planned_for in (None, self.world):
            return [step.micro for step in steps]
        return [
            regrouped(
                step.micro, self._lengths, processes=self.world, batch_size=config.rows, max_tokens=config.max_tokens
            )
            for step in steps
        ]

    def after(self, done: int) -> Iterator[PlannedStep]:
        """The steps that are left once `done` of the run are done."""
        for epoch in range(self.epoch_of(done), self.config.epochs):
            plan = self._plan(epoch)
            for index in range(max(0, done - self.starts[epoch]), len(plan)):
                rows = [row for ranks in plan[index] for part in ranks for row in part]
                items, tokens = (sum(many[row] for row in rows) for many in (self._counts, self._lengths))
                yield PlannedStep(plan[index], epoch, index + 1 == len(plan), items, tokens)

    def rows_of(self, step: int) -> list[int]:
        """The training rows that a step takes, over all processes.

        Args:
            step: counted from 1, as the history does.
        """
        epoch = self.epoch_of(step - 1)
        ranks = self._plan(epoch)[step - 1 - self.starts[epoch]]
        return sorted(row for parts in ranks for part in parts for row in part)


def micro_batches(
    step: PlannedStep,
    task: Task,
    tokenizer: Any,
    examples: Sequence[Example],
    rank: int,
    device: torch.device,
    cache: TrunkCache | None = None,
    *,
    focuses: bool = False,
) -> Iterator[MicroBatch]:
    """This process's share of a step, collated and on its way to the device.

    Args:
        cache: what the trunk makes of the rows.
        focuses: whether the learner gives the logits of supervised places alone.
    """
    for index, ranks in enumerate(step.micro):
        some = [examples[row] for row in ranks[rank] or next(rows for rows in ranks if rows)[:1]]
        batch = task.collate(some, tokenizer)
        inputs, labels, more = moved(batch, task, device, focuses=focuses)
        if (states := states_on_device(cache, batch.inputs, device)) is not None:
            more["trunk_states"] = states
        positions = positions_of(inputs, [length_of(example) for example in some])
        yield MicroBatch(inputs, labels, index + 1 == len(step.micro), positions, bool(ranks[rank]), more)


def moved(
    batch: Batch, task: Task, device: torch.device, *, focuses: bool
) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
    """A batch's inputs and labels on the device, and what else the learner's forward is given.

    Args:
        focuses: whether the learner gives the logits of supervised places alone.
    """
    assert batch.labels is not None  # the loop was given labelled rows
    places = task.supervised(batch.labels) if focuses else None
    at = {} if places is None else {" at": places[0]}
    tensors = on_device({**batch.inputs, **at, " labels": places[1] if places else batch.labels}, device)
    labels = tensors.pop(" labels")
    more: dict[str, Any] = {"at": tensors.pop(" at")} if places else {}
    if device.type != "cpu" and "attention_mask" in batch.inputs:
        more["host_mask"] = batch.inputs["attention_mask"]
    return tensors, labels, more


def states_on_device(cache: TrunkCache | None, inputs: Mapping[str, Tensor], device: torch.device) -> States | None:
    """What the trunk makes of a batch, which is on the CPU, where that is known."""
    states = cache.states(inputs) if cache is not None else None
    return None if states is None else tuple(on_device(dict(enumerate(states)), device).values())


def on_device(tensors: Mapping[Name, Tensor], device: torch.device) -> dict[Name, Tensor]:
    """Copies to the device; on CUDA from pinned memory, so that the copy overlaps with computing."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}
