"""What a layer tells so that adapters share one forward: its weights side by side, one slot each.

    LoRA, rows b = 1..B, each with its own adapter:   y_b + s_b · B_b (A_b x_b)      one gather, two batched products

A layer that names its tensors in `inner` is stacked: the tensors of all resident adapters at a site lie in one
tensor each, with a slot axis in front. The gathered rows reach `AdapterLayer.routed` as `Own`, and so do a single
adapter's, so the arithmetic of a method exists once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True)
class Own:
    """The weights that act on a batch: one adapter's for all rows, or each row's own.

    Args:
        tensors: short name -> (*shape) of one adapter, or (B, *shape). The inner axis (R, M or P) comes first in
            `*shape`, so LoRA's `lora_B` is (R, d_out) here.
        scale: of the change; (B, 1, 1) where rows differ.
        options: what the layers of one stack have in common, such as the activation.
        dropout: the share of values that is dropped now; a resident adapter drops none.
    """

    tensors: Mapping[str, Tensor]
    scale: float | Tensor = 1.0
    options: tuple[Any, ...] = ()
    dropout: float = 0.0

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def product(left: Tensor, right: Tensor) -> Tensor:
    """left (B, T, N) times right (N, K) or (B, N, K) -> (B, T, K); what `matmul` does, without its detours."""
    return torch.bmm(left, right) if right.dim() == left.dim() == 3 else torch.matmul(left, right)


def add_product(y: Tensor, left: Tensor, right: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """y + scale · left right, written into y where nobody can tell.

    With a graph it is one operation, and the factor falls on the small gradients: no change of y's size is made.

    Args:
        y: (B, T, N), the fresh output of a module.
        left: (B, T, K), in whose type the product is made.
        right: (K, N), or (B, K, N).
        scale: a number, or (B, 1, 1).

    Returns:
        (B, T, N) in the type of y.
    """
    if isinstance(scale, Tensor):
        left, scale = (left * scale).to(left.dtype), 1.0
    right = right if right.dtype == left.dtype else right.to(left.dtype)
    if y.dtype != left.dtype or (right.dim() == 3 and y.dim() != 3):
        change = product(left, right)
        return y + (change if scale == 1.0 else change * scale).to(y.dtype)
    graph = torch.is_grad_enabled() and (y.requires_grad or left.requires_grad or right.requires_grad)
    in_place = not graph and y.dim() == 3 and y.is_contiguous()
    if in_place and scale != 1.0:
        left, scale = left * scale, 1.0  # much smaller than y, and a batched product with a factor takes longer
    if right.dim() == 3:
        add = y.baddbmm_ if in_place else functools.partial(torch.baddbmm, y)
        return add(left, right, alpha=scale)
    flat, rows = y.reshape(-1, y.shape[-1]), left.reshape(-1, left.shape[-1])
    if not in_place:
        return torch.addmm(flat, rows, right, alpha=scale).view(y.shape)
    flat.addmm_(rows, right, alpha=scale)
    return y
