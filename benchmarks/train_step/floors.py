"""The floors: the bare frozen encoder on petune's own batches, forward, and backward to the inputs of adapted blocks.

No adapter, no head, no loss, no optimizer: what is left is the work that no arm can do without. The limit of an arm is
its floor and the adapters' own operations at the floor's speed; per token and block, hidden width d, inner width m,
rows of s pieces, rank r on all six linear maps:

    forward  8 d^2 + 4 d m + 4 s d        input gradient  8 d^2 + 4 d m + 8 s d        LoRA  6 r (10 d + 2 m)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding

from benchmarks.train_step.ours import config
from benchmarks.train_step.settings import Settings
from petune.training.batches import Course

Batch = dict[str, Tensor]


class Caught(NamedTuple):
    """What enters the lowest adapted block for one batch: its states, and the other arguments of its call."""

    states: Tensor
    others: tuple[Any, ...]
    named: dict[str, Any]


class Floors:
    """The encoder with every weight frozen, and the batches of petune's first epoch."""

    def __init__(self, settings: Settings) -> None:
        self.model: Any = settings.backbone(dropout=False).requires_grad_(False)
        self.blocks: nn.ModuleList = self.model.encoder.layer
        self.batches = batches(settings)
        self.top = settings.top
        self.caught = [self._catch(batch) for batch in self.batches]

    def calls(self) -> dict[str, Callable[[], None]]:
        """Name -> one epoch of a floor."""
        lowest = len(self.blocks) - self.top
        return {
            "floor, forward": self.forward,
            "floor, all blocks": lambda: self.with_gradient(0),
            "floor, top": lambda: self.with_gradient(lowest),
            "floor, top, trunk kept": self.live,
        }

    @torch.no_grad()
    def forward(self) -> None:
        """Every batch, forward only."""
        for batch in self.batches:
            self.model(**batch)

    def with_gradient(self, lowest: int) -> None:
        """Every batch, forward and back to what enters block `lowest`; nothing below it is in the graph."""

        def leaf(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return (given[0].detach().requires_grad_(), *given[1:]), named

        handle = self.blocks[lowest].register_forward_pre_hook(leaf, with_kwargs=True)
        try:
            for batch in self.batches:
                self.model(**batch).pooler_output.sum().backward()
        finally:
            handle.remove()

    def live(self) -> None:
        """Every batch through the adapted blocks alone, from the trunk's states, and back to them."""
        for caught in self.caught:
            states = caught.states.detach().requires_grad_()
            for block in self.blocks[len(self.blocks) - self.top :]:
                states = block(states, *caught.others, **caught.named)
            self.model.pooler(states).sum().backward()

    @torch.no_grad()
    def _catch(self, batch: Batch) -> Caught:
        found: list[Caught] = []

        def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            found.append(Caught(given[0].clone(), given[1:], named))

        lowest = self.blocks[len(self.blocks) - self.top]
        handle = lowest.register_forward_pre_hook(note, with_kwargs=True)
        try:
            self.model(**batch)
        finally:
            handle.remove()
        return found[0]


def batches(settings: Settings) -> list[Batch]:
    """The batches of petune's first epoch, padded, without labels."""
    examples, collate = settings.prepared.train, DataCollatorWithPadding(settings.tokenizer)
    names = ("input_ids", "attention_mask")
    return [
        dict(collate([{name: list(examples[row][name]) for name in names} for row in rows]))
        for rows in order(settings, epochs=1)
    ]


def order(settings: Settings, epochs: int) -> list[list[int]]:
    """The rows of every step of petune's run, in its order."""
    course = Course(settings.prepared.task, settings.prepared.train, config(settings, epochs=epochs))
    return [[row for ranks in step.micro for rows in ranks for row in rows] for step in course.after(0)]


class Operations(NamedTuple):
    """FLOPs of one epoch: the frozen part that its floor does, and what LoRA adds to it."""

    frozen: float
    adapters: float

    def limit(self, seconds: float) -> float:
        """The floor's seconds, and the adapters' operations at the same speed."""
        return seconds * (1 + self.adapters / self.frozen)


def operations(settings: Settings, shape: Any, shapes: list[tuple[int, int]]) -> dict[str, Operations]:
    """FLOPs by the formulas above: of the floors `all blocks`, `top` and `top, trunk kept`.

    Args:
        shape: the encoder's configuration.
        shapes: rows and pieces of each batch, padding included, which the floors compute as well.
    """
    d, m, blocks = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    forward = sum(rows * s * (8 * d * d + 4 * d * m + 4 * s * d) for rows, s in shapes)
    backward = sum(rows * s * (8 * d * d + 4 * d * m + 8 * s * d) for rows, s in shapes)
    lora = sum(rows * s for rows, s in shapes) * 6 * settings.rank * (10 * d + 2 * m)
    top = settings.top
    return {
        "floor, all blocks": Operations(blocks * (forward + backward), blocks * lora),
        "floor, top": Operations(blocks * forward + top * backward, top * lora),
        "floor, top, trunk kept": Operations(top * (forward + backward), top * lora),
    }
