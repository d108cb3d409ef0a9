"""What speaks against caching a trunk, and what its states would take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from petune.config import TrainConfig
from petune.model.taps import foreign_hooks
from petune.model.trunk import States, Trunk
from petune.tasks.base import Example
from petune.training.batches import length_of, on_device
from petune.training.trainee import Trainee

if TYPE_CHECKING:
    from petune.model.learner import Learner

AGREE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""How far logits with and without the cache may be apart, over the largest; other types: a hundredth."""


class UnfitError(Exception):
    """Why a trunk is not cached; only this room sees it."""


class NothingToCacheError(UnfitError):
    """There is no trunk, or it would be computed once anyway."""


def refuse(learner: Learner, config: TrainConfig) -> None:
    """Raises UnfitError where there is nothing to cache, or what is cached might change from epoch to epoch."""
    if learner.trunk is None:
        raise NothingToCacheError("no block lies below the lowest adapter. Adapt the upper blocks only: top=2.")
    if config.cache_trunk == "auto" and config.epochs < 2:
        raise NothingToCacheError("there is a single epoch.")
    shell = learner.adapter.shell
    live = {id(module) for block in learner.live_blocks() for module in block.modules()}
    for path, module in shell.base.named_modules():
        if id(module) not in live and foreign_hooks(module):
            raise UnfitError(
                f"a forward hook acts at {path or 'the backbone'!r}, which may change what enters each time."
            )


def few_rows(trainee: Trainee) -> dict[str, Tensor]:
    """A batch of three rows, from the shortest to the longest, to try something on."""
    examples = trainee.examples
    order = sorted(range(len(examples)), key=lambda row: length_of(examples[row]))
    some = dict.fromkeys((order[0], order[len(order) // 2], order[-1]))
    return trainee.task.collate([examples[row] for row in some], trainee.tokenizer).inputs


class Tried(NamedTuple):
    """Some rows, on the CPU, and what the trunk makes of them."""

    inputs: dict[str, Tensor]
    states: States


def prove(trainee: Trainee, accelerator: Accelerator) -> Tried:
    """Some rows that have the same logits with their states given; raises UnfitError if they have not."""
    learner, inputs = trainee.learner, few_rows(trainee)
    moved = on_device(inputs, accelerator.device)
    learner.mode(False)
    try:
        with torch.no_grad(), accelerator.autocast():
            states = learner.trunk_states(moved)
            whole, short = learner(**moved), learner(trunk_states=states, **moved)
    except (TypeError, KeyError, IndexError, RuntimeError) as error:  # blocks that are called in a way unknown here
        raise UnfitError(f"the blocks of this backbone cannot be passed over ({error}).") from error
    finally:
        learner.mode(True)
    far = float((whole - short).abs().max() / whole.abs().max().clamp_min(1e-12))
    if not far <= AGREE.get(whole.dtype, 1e-2):
        raise UnfitError(f"its logits differ by {far:.1e} from those of the whole backbone.")
    return Tried(inputs, states)


def estimated_bytes(trunk: Trunk, some: States, examples: Sequence[Example]) -> int:
    """What the states of these rows take.

    Args:
        some: states of other rows, whose width and type they have.
    """
    total = 0
    for stack, state in zip(trunk.stacks, some, strict=True):
        pieces = sum(_pieces(example, stack.reads, state.shape[1]) for example in examples)
        total += pieces * state.shape[-1] * state.element_size()
    return total


def _pieces(example: Example, reads: str, others: int) -> int:
    """How many pieces of a row a stack sees: a decoder as many as there are targets, or a classifier's the input; of
    pictures and sounds as many as of all others."""
    targets = example.get("labels")
    if reads == "decoder" and isinstance(targets, list):
        return len(targets)
    return length_of(example) if "input_ids" in example else others
