"""What AdaLoRA asks of its layers in every step, for all of them at once.

Layers of one shape lie in the rows of one tensor: their Gram matrices are one product, and the smoothed scores are
matrices of which the layers' buffers are views. So a step costs a handful of operations for each shape, however many
sites there are, and no value is fetched from the device.

    ‖A Aᵀ - I‖ + ‖Bᵀ B - I‖                    how far a layer is from orthogonal
    I = |w · ∂L/∂w|                             importance
    S ← β₁ S + (1 - β₁) I                       smoothed sensitivity
    U ← β₂ U + (1 - β₂) |I - S|                 smoothed uncertainty
    score = mean S U of the row of A + S U of the entry of E + mean S U of the column of B

Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv:2303.10512.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PARTS = ("lora_A", "lora_E", "lora_B")
SMOOTHED = tuple(f"{kind}_{part}" for kind in ("sensitivity", "uncertainty") for part in PARTS)
"""The names of a layer's buffers, which a resume keeps."""
ROUNDING = 100.0
"""Times the type's precision: a defect that may be rounding alone."""


class Rows(NamedTuple):
    """The scores of layers of one shape, N numbers for each: those of A, of E and of B.

    Args:
        sensitivity, uncertainty: (layers, N).
        views: the buffers of each layer, which lie in these rows.
    """

    sensitivity: Tensor
    uncertainty: Tensor
    views: list[list[Tensor]]


_rows: WeakKeyDictionary[nn.Module, Rows] = WeakKeyDictionary()
"""First layer of a shape -> where its scores and those of its fellows lie."""


def defect(layers: Sequence[nn.Module]) -> Tensor:
    """The mean over the layers of ‖A Aᵀ - I‖ + ‖Bᵀ B - I‖ (Frobenius), a scalar with a graph."""
    found: Tensor = _Defect.apply(_alike(layers), *_all(layers, "lora_A"), *_all(layers, "lora_B"))  # type: ignore[no-untyped-call]
    return found


class _Defect(torch.autograd.Function):
    """‖G - I‖ with G = A Aᵀ has the gradient 2 (G - I) A / ‖G - I‖, which a few products give for all layers."""

    @staticmethod
    def forward(ctx: Any, alike: Sequence[Sequence[int]], *factors: Tensor) -> Tensor:
        """All A and then all B; `alike`: the indices of layers of one shape."""
        half, places, stacks, grams = len(factors) // 2, [], [], []
        for same in alike:
            down = torch.stack([factors[index] for index in same])
            up = torch.stack([factors[half + index] for index in same])
            places += [same, [half + index for index in same]]
            stacks += [down, up]
            grams += [torch.bmm(down, down.mT), torch.bmm(up.mT, up)]
        errors = torch.cat(grams)
        errors -= torch.eye(errors.shape[-1], device=errors.device, dtype=errors.dtype)
        norms = torch.linalg.vector_norm(errors, dim=(1, 2), keepdim=True)
        # Near 0 the direction of an error is that of rounding: there the gradient falls to 0, instead of having norm 1.
        errors /= norms.clamp_min(ROUNDING * torch.finfo(norms.dtype).eps) * (half / 2)
        pieces = errors.split([len(stack) for stack in stacks])
        pairs = [
            (e, s) if number % 2 == 0 else (s, e) for number, (e, s) in enumerate(zip(pieces, stacks, strict=True))
        ]
        ctx.places = places
        ctx.save_for_backward(*(torch.bmm(left, right) for left, right in pairs))
        return norms.sum() / half

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad, a scalar -> the gradients by each A and each B."""
        found: dict[int, Tensor] = {}
        for places, slopes in zip(ctx.places, ctx.saved_tensors, strict=True):
            found.update(zip(places, (slopes * grad).unbind(0), strict=True))
        return None, *(found[place] for place in range(len(found)))


@torch.no_grad()
def observe(layers: Sequence[nn.Module], beta1: float, beta2: float) -> None:
    """Updates the smoothed sensitivity and uncertainty of every layer that has gradients."""
    for same in _alike(layers):
        fellows = [layers[index] for index in same]
        rows = _rows_of(fellows)
        seen = [row for row, layer in enumerate(fellows) if all(p.grad is not None for p in layer.parameters())]
        if len(seen) == len(fellows):
            _smooth(rows.sensitivity, rows.uncertainty, fellows, beta1, beta2)
        elif seen:
            sensitivity, uncertainty = rows.sensitivity[seen], rows.uncertainty[seen]
            _smooth(sensitivity, uncertainty, [fellows[row] for row in seen], beta1, beta2)
            rows.sensitivity[seen], rows.uncertainty[seen] = sensitivity, uncertainty


@torch.no_grad()
def scores(layers: Sequence[nn.Module]) -> Tensor:
    """How much each rank of each layer matters, (layers, R)."""
    found: list[Tensor] = [torch.empty(0)] * len(layers)
    for same in _alike(layers):
        rows = _rows_of([layers[index] for index in same])
        down, rank, up = (view.shape for view in rows.views[0][:3])
        sizes = [down.numel(), rank.numel(), up.numel()]
        a, e, b = (rows.sensitivity * rows.uncertainty).split(sizes, dim=1)
        both = a.unflatten(1, down).mean(2) + e + b.unflatten(1, up).mean(1)
        for index, row in zip(same, both.unbind(0), strict=True):
            found[index] = row
    return torch.stack(found)


@torch.no_grad()
def prune(layers: Sequence[nn.Module], budget: int) -> None:
    """Zeroes the entries of E with the lowest scores, so that at most `budget` are left over all layers.

    Args:
        layers: with R ranks each; nothing happens where that is within the budget.
    """
    entries: list[Tensor] = [*_all(layers, "lora_E")]
    if budget >= sum(len(entry) for entry in entries):
        return
    # A rank that does nothing never takes the place of one that does.
    unused = torch.stack(entries).squeeze(-1) == 0
    found = scores(layers).masked_fill_(unused, -1.0)
    # A stable sort, so that ties are broken the same way on every machine and rank.
    order = torch.sort(found.flatten(), descending=True, stable=True).indices
    keep = torch.zeros_like(found).flatten().scatter_(0, order[:budget], 1.0)
    torch._foreach_mul_(entries, list(keep.view(len(layers), -1, 1).unbind(0)))


def _alike(layers: Sequence[nn.Module]) -> list[list[int]]:
    """The indices of layers of one shape, type and device."""
    found: dict[Hashable, list[int]] = {}
    for index, layer in enumerate(layers):
        (down,), (up,) = _all([layer], "lora_A"), _all([layer], "lora_B")
        found.setdefault((down.shape, up.shape, down.dtype, down.device), []).append(index)
    return list(found.values())


def _rows_of(fellows: Sequence[nn.Module]) -> Rows:
    """The scores of layers of one shape. A layer whose buffers were moved or replaced is laid into rows anew."""
    found = _rows.get(fellows[0])
    if found is None or len(found.views) != len(fellows) or not all(map(_holds, fellows, found.views)):
        found = _rows[fellows[0]] = _laid(fellows)
    return found


def _holds(layer: nn.Module, views: Sequence[Tensor]) -> bool:
    return all(layer._buffers[name] is view for name, view in zip(SMOOTHED, views, strict=True))


def _laid(fellows: Sequence[nn.Module]) -> Rows:
    """Copies the layers' buffers into rows, and makes them views of these."""
    buffers = [[getattr(layer, name) for layer in fellows] for name in SMOOTHED]
    sensitivity, uncertainty = _rowwise(buffers[:3]), _rowwise(buffers[3:])
    views = []
    for layer, rows in zip(fellows, zip(sensitivity, uncertainty, strict=True), strict=True):
        shapes = [getattr(layer, part).shape for part in PARTS]
        sizes = [shape.numel() for shape in shapes]
        own = [piece.view(shape) for row in rows for piece, shape in zip(row.split(sizes), shapes, strict=True)]
        for name, view in zip(SMOOTHED, own, strict=True):
            setattr(layer, name, view)
        views.append(own)
    return Rows(sensitivity, uncertainty, views)


def _smooth(sensitivity: Tensor, uncertainty: Tensor, layers: Sequence[nn.Module], beta1: float, beta2: float) -> None:
    """Takes this step's importance into the scores, (layers, N) each."""
    weights = _rowwise([_all(layers, part) for part in PARTS])
    slopes = _rowwise([[parameter.grad for parameter in _all(layers, part)] for part in PARTS])  # type: ignore[misc]
    importance = weights.mul_(slopes).abs_()
    sensitivity.mul_(beta1).add_(importance, alpha=1 - beta1)
    uncertainty.mul_(beta2).add_(importance.sub_(sensitivity).abs_(), alpha=1 - beta2)


def _all(layers: Sequence[nn.Module], part: str) -> list[nn.Parameter]:
    """One parameter of every layer."""
    return [layer._parameters[part] for layer in layers]  # type: ignore[misc]


def _rowwise(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """All numbers of each layer in a row of their own, (layers, N).

    Args:
        parts: for each part, the tensors of all layers, of one shape.
    """
    return torch.cat([torch.stack(list(tensors)).flatten(1) for tensors in parts], dim=1)
