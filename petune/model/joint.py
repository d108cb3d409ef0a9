"""One forward of the backbone for the batches of several adapters in training, and each one's logits from its own head.

The batches lie one after the other along the batch axis, padded on the right to the longest: positions do not move, and
the attention mask keeps the padding out. Every layer acts on its own rows only, so each adapter gets the gradients that
its batch alone would give.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from petune.model.abreast import InOrder, Load, portions
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.heads import head_of
from petune.model.learner import Learner
from petune.model.routing import Group, entered
from petune.model.running import backbone_output
from petune.model.trimming import trimming
from petune.model.trunk import States, passing
from petune.tasks._padding import size_of
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


FORWARD_ON_CPU, FORWARD_ELSEWHERE = 32, 4096
"""What a forward costs besides its positions, in positions. On a CPU that is the time of the many small operations
(20 ms, where each position of a 6-block, 384-wide encoder takes 0.7 ms). A GPU has to be fed thousands to be busy."""


def forwards(
    learners: Sequence[Learner], inputs: Sequence[Mapping[str, Tensor]], known: Sequence[bool] = ()
) -> list[list[int]]:
    """The indices of the learners that share a forward; all of them, where that pays.

    Learners do not share one if they call the backbone in another way (T5's tags use its encoder alone, tags read every
    position of the last block and classes the first), if gradients
    reach deeper for one than for the other (each keeps its frozen trunk, and blocks without dropout), or if padding and
    cutting the batch apart would cost more than another forward.

    Args:
        inputs: a batch for each learner.
        known: of each batch, whether the trunk's states are known; a forward passes over the trunk for all or none.
    """
    forward = FORWARD_ON_CPU if next(iter(inputs[0].values())).device.type == "cpu" else FORWARD_ELSEWHERE
    found: list[list[int]] = []
    for alike in _alike(learners, inputs, known or [False] * len(learners)):
        sizes = [size_of(inputs[index]) for index in alike]
        loads = [Load(size[0], size[1], repr(learners[index].method)) for size, index in zip(sizes, alike, strict=True)]
        found += [[alike[place] for place in some] for some in portions(loads, forward)]
    return found


def _alike(
    learners: Sequence[Learner], inputs: Sequence[Mapping[str, Tensor]], known: Sequence[bool]
) -> Iterable[list[int]]:
    """Indices of those that call the backbone alike, and for which gradients reach equally deep."""
    found: dict[Hashable, list[int]] = {}
    for index, (learner, given, skips) in enumerate(zip(learners, inputs, known, strict=True)):
        shell = learner.adapter.shell
        # The shell of an encoder-decoder makes the decoder's inputs itself.
        makes_inputs = type(shell.model) if getattr(shell.model.config, "is_encoder_decoder", False) else None
        key = type(shell.base), makes_inputs, _form(given), learner.lowest_block, learner.trims, skips
        found.setdefault(key, []).append(index)
    return found.values()


def _form(given: Mapping[str, Tensor]) -> frozenset[tuple[str, Any]]:
    """The names in a batch, and the shapes of pictures and sounds, which padding would change."""
    return frozenset((name, tensor.shape[1:] if tensor.is_floating_point() else None) for name, tensor in given.items())


def logits_together(
    learners: Sequence[Learner],
    inputs: Sequence[Mapping[str, Tensor]],
    states: Sequence[States | None],
) -> list[Answer]:
    """The logits of every learner on its own batch, from a single forward of the backbone.

    Args:
        learners: on one bank, where their adapters are resident; `forwards` says which can share.
        inputs: a batch for each.
        states: what the trunk, which they share, makes of each batch, where that is known.

    Raises:
        RouteError: a site that cannot tell rows apart (DeBERTa's relative positions).
    """
    # Equal methods beside each other: their layers are computed at once.
    order = sorted(range(len(learners)), key=lambda index: (repr(learners[index].method), size_of(inputs[index])[0]))
    known = [states[index] for index in order]
    together = stacked_states([state for state in known if state is not None], len(order))
    with passing(learners[0].trunk, together), trimming(learners[0].trims):
        made = _one_forward(learners[0].bank, [Part(learners[index].adapter, inputs[index]) for index in order])
    answers = dict(zip(order, made, strict=True))
    return [answers[index] for index in range(len(learners))]


def _one_forward(bank: Bank, parts: Sequence[Part]) -> list[Answer]:
    """The parts' logits from a single forward."""
    shapes = [size_of(part.inputs) for part in parts]
    sizes = [rows for rows, _ in shapes]
    inputs = stacked(parts)
    batch, length = size_of(inputs)
    everyone = torch.arange(batch, device=next(iter(inputs.values())).device)
    groups = tuple(Group(part.adapter, rows) for part, rows in zip(parts, everyone.split(sizes), strict=True))
    with entered(InOrder(bank, groups, sizes)) as frame:
        output = backbone_output(bank, parts[0].adapter, inputs, frame)
    made = []
    for (count, own), (adapter, rows) in zip(shapes, groups, strict=True):
        assert rows is not None
        added = count * (length - own)
        made.append(Answer(head_of(adapter, output, inputs, rows, batch), added))
    return made


def stacked(parts: Sequence[Part]) -> dict[str, Tensor]:
    """One batch, (B, T) or (B, ...) each, of the rows of all parts in their order."""
    made = {}
    for name, first in parts[0].inputs.items():
        if first.is_floating_point():  # of one shape
            made[name] = torch.cat([part.inputs[name] for part in parts])
            continue
        length = max(part.inputs[name].shape[1] for part in parts)
        made[name] = torch.cat([_padded(part.inputs[name], length, _filler(name, part.adapter)) for part in parts])
    return made


def stacked_states(states: Sequence[States], count: int) -> States | None:
    """What the trunk makes of the one batch, (B, T, D); None unless it is known of all `count` parts."""
    if len(states) < count:
        return None
    made = []
    for column in zip(*states, strict=True):
        length = max(state.shape[1] for state in column)
        made.append(torch.cat([F.pad(state, (0, 0, 0, length - state.shape[1])) for state in column]))
    return tuple(made)


def _padded(tensor: Tensor, length: int, value: int) -> Tensor:
    return F.pad(tensor, (0, length - tensor.shape[1]), value=value)


def _filler(name: str, adapter: Adapter) -> int:
    """What pads an input: the pad piece, for some architectures tell positions by it; no label; the rest is masked."""
    if name.endswith("labels"):
        return IGNORE
    return (adapter.shell.backbone.pad_token_id or 0) if name.endswith("input_ids") else 0
