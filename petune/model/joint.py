"""One forward of the backbone for the batches of several adapters in training, and each one's logits from its own head.

The batches lie one after the other along the batch axis, padded on the right to the longest: positions do not move, and
the attention mask keeps the padding out. Every layer is called on its own rows only, so each adapter gets the gradients
that its batch alone would give.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.heads import head_of
from petune.model.learner import Learner
from petune.model.routing import Frame, Group, entered
from petune.model.running import backbone_output
from petune.tasks.base import IGNORE


class Part(NamedTuple):
    """An adapter and its batch: (b, t) tensors by name."""

    adapter: Adapter
    inputs: Mapping[str, Tensor]


class Answer(NamedTuple):
    """The logits of one learner's batch.

    Args:
        logits: (b, C), or (b, T, C) where tokens are answered; T is the length of the stacked batch.
        added: positions by which the batch was padded.
    """

    logits: Tensor
    added: int


def logits_together(learners: Sequence[Learner], inputs: Sequence[Mapping[str, Tensor]]) -> list[Answer]:
    """The logits of every learner on its own batch; batches for which the backbone is called alike share one forward.

    Args:
        learners: on one bank, where their adapters are resident.
        inputs: a batch for each.

    Raises:
        RouteError: a site that cannot tell rows apart (DeBERTa's relative positions).
    """
    answers: dict[int, Answer] = {}
    for indices in kinds([learner.adapter for learner in learners], inputs):
        if len(indices) == 1:
            (index,) = indices
            answers[index] = Answer(learners[index](**inputs[index]), 0)
        else:
            parts = [Part(learners[index].adapter, inputs[index]) for index in indices]
            answers.update(zip(indices, _one_forward(learners[0].bank, parts), strict=True))
    return [answers[index] for index in range(len(learners))]


def kinds(adapters: Sequence[Adapter], inputs: Sequence[Mapping[str, Tensor]]) -> list[list[int]]:
    """The indices of batches for which the backbone is called alike; usually all of them.

    T5's token tasks use its encoder alone, and the shell of an encoder-decoder makes the decoder's inputs itself.
    """
    found: dict[Hashable, list[int]] = {}
    for index, (adapter, given) in enumerate(zip(adapters, inputs, strict=True)):
        shell = adapter.shell
        makes_inputs = type(shell.model) if getattr(shell.model.config, "is_encoder_decoder", False) else None
        found.setdefault((type(shell.base), makes_inputs, frozenset(given)), []).append(index)
    return list(found.values())


def _one_forward(bank: Bank, parts: Sequence[Part]) -> list[Answer]:
    """The parts' logits from a single forward."""
    sizes = [len(part.inputs["input_ids"]) for part in parts]
    inputs = stacked(parts)
    batch, length = inputs["input_ids"].shape
    everyone = torch.arange(batch, device=inputs["input_ids"].device)
    groups = tuple(Group(part.adapter, rows) for part, rows in zip(parts, everyone.split(sizes), strict=True))
    with entered(InOrder(bank, groups, sizes)):
        output = backbone_output(bank, parts[0].adapter, inputs)
    made = []
    for part, (adapter, rows) in zip(parts, groups, strict=True):
        assert rows is not None
        added = len(rows) * length - part.inputs["input_ids"].numel()
        made.append(Answer(head_of(adapter, output, inputs, rows, batch), added))
    return made


def stacked(parts: Sequence[Part]) -> dict[str, Tensor]:
    """One batch, (B, T) each, of the rows of all parts in their order."""
    made = {}
    for name in parts[0].inputs:
        length = max(part.inputs[name].shape[1] for part in parts)
        made[name] = torch.cat([_padded(part.inputs[name], length, _filler(name, part.adapter)) for part in parts])
    return made


def _padded(tensor: Tensor, length: int, value: int) -> Tensor:
    return F.pad(tensor, (0, length - tensor.shape[1]), value=value)


def _filler(name: str, adapter: Adapter) -> int:
    """What pads an input: the pad piece, for some architectures tell positions by it; no label; the rest is masked."""
    if name.endswith("labels"):
        return IGNORE
    return (adapter.shell.backbone.pad_token_id or 0) if name.endswith("input_ids") else 0


class InOrder(Frame):
    """A frame whose groups lie one after the other, so that their rows are cut and joined in one go.

    Args:
        sizes: rows of each group.
    """

    def __init__(self, owner: object, groups: tuple[Group, ...], sizes: list[int]) -> None:
        super().__init__(owner, groups, sum(sizes))
        self._sizes, self._adapters = sizes, [group.adapter for group in groups]

    def apply(self, path: str, x: Tensor, y: Tensor) -> Tensor:
        """The new output of a site: each group's rows by its own layer, other rows keep their bits.

        Raises:
            RouteError: a site whose leading axis is not the batch.
        """
        layers = [adapter.at(path) for adapter in self._adapters]
        if not any(layer is not None for layer in layers):
            return y
        pieces = zip(
            layers, self._by_row(path, x).split(self._sizes), self._by_row(path, y).split(self._sizes), strict=True
        )
        made = [own_y if layer is None else layer(own_x, own_y).to(y.dtype) for layer, own_x, own_y in pieces]
        return torch.cat(made).reshape(y.shape)
