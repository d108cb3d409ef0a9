"""What a layer tells so that adapters share one forward: its weights side by side, one slot each.

    LoRA, rows b = 1..B, each with its own adapter:   y_b + s_b · B_b (A_b x_b)      one gather, two batched products

A layer that names its tensors in `inner` is stacked: the tensors of all resident adapters at a site lie in one
tensor each, with a slot axis in front. The gathered rows reach `AdapterLayer.routed` as `Own`, and so do a single
adapter's, so the arithmetic of a method exists once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def as_it_is(inner: Tensor) -> Tensor:
    """No dropout."""
    return inner


@dataclass(slots=True)
class Own:
    """The weights that act on a batch: one adapter's for all rows, or each row's own.

    Args:
        tensors: short name -> (*shape) of one adapter, or (B, *shape). The inner axis (R, M or P) comes first in
            `*shape`, so LoRA's `lora_B` is (R, d_out) here.
        scale: of the change; (B, 1, 1) where rows differ.
        options: what the layers of one stack have in common, such as the activation.
        dropout: applied to what the layer says; a resident adapter has none.
    """

    tensors: Mapping[str, Tensor]
    scale: float | Tensor = 1.0
    options: tuple[Any, ...] = ()
    dropout: Callable[[Tensor], Tensor] = as_it_is

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the layer computes."""
        return next(iter(self.tensors.values())).dtype


def product(left: Tensor, right: Tensor) -> Tensor:
    """left (B, T, N) times right (N, K) or (B, N, K) -> (B, T, K); what `matmul` does, without its detours."""
    return torch.bmm(left, right) if right.dim() == left.dim() == 3 else torch.matmul(left, right)


def add_product(y: Tensor, left: Tensor, right: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """y + scale · left right, written into y where nobody can tell.

    Args:
        y: (B, T, N), the fresh output of a module.
        left: (B, T, K).
        right: (K, N), or (B, K, N).
        scale: a number, or (B, 1, 1).

    Returns:
        (B, T, N) in the type of y.
    """
    if isinstance(scale, Tensor):
        left, scale = (left * scale).to(right.dtype), 1.0
    graph = torch.is_grad_enabled() and (y.requires_grad or left.requires_grad or right.requires_grad)
    if graph or not y.dtype == left.dtype == right.dtype or y.dim() != 3 or not y.is_contiguous():
        change = product(left, right)
        return y + (change if isinstance(scale, float) and scale == 1.0 else change * scale).to(y.dtype)
    if right.dim() == 3:
        return y.baddbmm_(left, right, alpha=scale)
    y.view(-1, y.shape[-1]).addmm_(left.reshape(-1, left.shape[-1]), right, alpha=scale)
    return y
