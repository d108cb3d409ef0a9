"""The frame of a joint forward: adapters in training side by side, each with its own rows.

    LoRA, adapters n = 1..N with b rows each:     y_n + s_n · B_n (A_n x_n)       two batched products, whatever N is

Layers of one kind and size whose batches are equally large are computed at once: their parameters are stacked for the
moment, with gradients. All others are called one after the other, on slices.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from petune.methods._stacking import Own
from petune.methods.base import AdapterLayer
from petune.model.routing import Frame, Group

MIXED = 0.1
"""The share of its time that a forward takes longer where rows are cut apart and joined at each site."""


class InOrder(Frame):
    """A frame whose groups lie one after the other, so that their rows are cut and joined in one go.

    Args:
        sizes: rows of each group.
    """

    def __init__(self, owner: object, groups: tuple[Group, ...], sizes: Sequence[int]) -> None:
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
        kinds = [_kind(layer, size, index) for index, (layer, size) in enumerate(zip(layers, self._sizes, strict=True))]
        blocks = [list(block) for _, block in groupby(range(len(layers)), kinds.__getitem__)]
        rows_x, rows_y = self._by_row(path, x), self._by_row(path, y)
        if len(blocks) == 1:
            return _act(layers, rows_x, rows_y).reshape(y.shape)
        sizes = [sum(self._sizes[index] for index in block) for block in blocks]
        pieces = zip(blocks, rows_x.split(sizes), rows_y.split(sizes), strict=True)
        made = [_act([layers[index] for index in block], own_x, own_y) for block, own_x, own_y in pieces]
        return torch.cat(made).reshape(y.shape)


def _kind(layer: AdapterLayer | None, size: int, index: int) -> Hashable:
    """Neighbours of one kind are computed at once; what must be alone has its index for a kind."""
    if layer is None:
        return None
    if not layer.inner or _drops(layer):
        return index
    shapes = tuple((tuple(p.shape), p.dtype) for p in layer.parameters())
    return type(layer), layer.options, shapes, size


def _drops(layer: nn.Module) -> bool:
    """Whether a layer drops values now: each adapter has its own share of them."""
    return any(isinstance(part, nn.Dropout) and part.p > 0 and part.training for part in layer.modules())


def _act(layers: Sequence[AdapterLayer | None], x: Tensor, y: Tensor) -> Tensor:
    """The new y of neighbours of one kind, whose rows lie one after the other."""
    first = layers[0]
    if first is None:
        return y
    if len(layers) == 1:
        made: Tensor = first(x, y)
        return made.to(y.dtype)
    owns = [layer.own() for layer in layers if layer is not None]
    if not all(tensor.numel() for tensor in owns[0].tensors.values()):
        return y  # a site of rank 0 has no change
    tensors = {name: torch.stack([own[name] for own in owns]) for name in owns[0].tensors}
    scales = [own.scale for own in owns]
    scale = scales[0] if len(set(scales)) == 1 else torch.tensor(scales, device=y.device).view(-1, 1, 1)
    many = len(layers)
    own = Own(tensors, scale, first.options)
    made = first.routed(own, x.reshape(many, -1, x.shape[-1]), y.reshape(many, -1, y.shape[-1]))
    return made.reshape(y.shape).to(y.dtype)


class Load(NamedTuple):
    """What one batch brings into a forward: its rows, their length, and the kind of its adapter."""

    rows: int
    length: int
    kind: Hashable


def portions(loads: Sequence[Load], forward: int) -> list[list[int]]:
    """Which batches share a forward, so that neither padding nor the number of forwards costs too much.

    The batches are ordered by length and cut where the sum over the forwards is least of

        `forward` + rows · longest · (1 if all are of one kind, else 1 + MIXED)

    Args:
        forward: what a forward costs besides its positions, counted in positions.

    Returns:
        The indices of each forward's batches.

    Examples:
        >>> loads = [Load(2, 10, "lora"), Load(2, 40, "lora"), Load(2, 12, "lora")]
        >>> portions(loads, forward=32), portions(loads, forward=4096)
        ([[0, 2], [1]], [[0, 2, 1]])
    """
    order = sorted(range(len(loads)), key=lambda index: loads[index].length)
    best: list[tuple[float, int]] = [(0.0, 0)]
    """Of the first n batches in this order: the least cost, and where the last forward begins."""
    for end in range(1, len(order) + 1):
        longest, rows, kinds = loads[order[end - 1]].length, 0, set()
        found: list[tuple[float, int]] = []
        for begin in range(end - 1, -1, -1):
            rows += loads[order[begin]].rows
            kinds.add((loads[order[begin]].kind, loads[order[begin]].rows))
            positions = rows * longest * (1 + MIXED * (len(kinds) > 1))
            found.append((best[begin][0] + forward + positions, begin))
        best.append(min(found))
    made, end = [], len(order)
    while end:
        begin = best[end][1]
        made.append(order[begin:end])
        end = begin
    return made[::-1]
