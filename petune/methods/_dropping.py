"""The product with which a layer reads its input, dropout included, for a graph that keeps nothing but that input.

    down = dropout(x) Wᵀ        x: (..., N), W: (R, N) with R far below N

The frozen map of a site, its neighbours at the same input and this product all keep the very tensor x. Written plainly
the product would keep x dropped, and dropout its mask: two more tensors of x's size for each site. Here the mask is
told by the number that its generator is started from, and drawn again in the backward pass. The product is made in
the type of x: the small W is cast, x never.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from petune.methods._stacking import product

SEEDS = 2**62


def dropped_share(part: nn.Dropout) -> float:
    """The share of values that a dropout drops now."""
    return part.p if part.training else 0.0


def narrowed(x: Tensor, weight: Tensor, dropout: float = 0.0) -> Tensor:
    """dropout(x) weightᵀ.

    Args:
        x: (..., N).
        weight: (R, N), or (B, R, N): one for each row, and then no dropout.
        dropout: the share of values that is dropped.

    Returns:
        (..., R), in the type of x, or of the autocast that is on.
    """
    dtype = _computing(x)
    if torch.compiler.is_compiling():
        return product(F.dropout(x, dropout) if dropout else x, weight.to(x.dtype).mT)
    if dropout:
        # Drawn whether there is a graph or not, so that a recomputed forward drops what the first one did.
        seed = torch.randint(SEEDS, (1,), device="cpu").tolist()[0]
        return _Narrowed.apply(x, weight, dropout, seed, dtype)  # type: ignore[no-any-return, no-untyped-call]
    if dtype != x.dtype and weight.dim() == 2 and torch.is_grad_enabled():
        return _Narrowed.apply(x, weight, 0.0, 0, dtype)  # type: ignore[no-any-return, no-untyped-call]
    return product(x.to(dtype), weight.to(dtype).mT)


def _computing(x: Tensor) -> torch.dtype:
    """The type in which a product of x is made here."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


class _Narrowed(torch.autograd.Function):
    """The product with dropout, or under an autocast that would keep its own copy of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dropout: float, seed: int, dtype: torch.dtype) -> Tensor:
        """x (..., N), weight (R, N) -> (..., R)."""
        ctx.save_for_backward(x, weight)
        ctx.dropout, ctx.seed, ctx.dtype = dropout, seed, dtype
        mask = _mask(x, dropout, seed, dtype)
        return product(x.to(dtype) if mask is None else mask.mul_(x), _enlarged(weight, dropout, dtype).mT)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (..., R) -> the gradients by x and by weight."""
        x, weight = ctx.saved_tensors
        grad, by_x, by_weight = grad.to(ctx.dtype), None, None
        mask = _mask(x, ctx.dropout, ctx.seed, ctx.dtype)
        if ctx.needs_input_grad[0]:
            by_x = product(grad, _enlarged(weight, ctx.dropout, ctx.dtype))
            by_x = (by_x if mask is None else by_x.mul_(mask)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            dropped = x.to(ctx.dtype) if mask is None else mask.mul_(x)
            by_weight = grad.reshape(-1, grad.shape[-1]).mT @ dropped.reshape(-1, dropped.shape[-1])
            by_weight = by_weight.to(weight.dtype).div_(1 - ctx.dropout)
        return by_x, by_weight, None, None, None


def _enlarged(weight: Tensor, dropout: float, dtype: torch.dtype) -> Tensor:
    """The values of x that are kept count 1 / (1 - dropout) times; the weight takes the factor, for it is smaller."""
    return (weight / (1 - dropout) if dropout else weight).to(dtype)


def _mask(x: Tensor, dropout: float, seed: int, dtype: torch.dtype) -> Tensor | None:
    """1 where a value is kept, 0 where it is dropped; the same for the same seed. None: nothing is dropped."""
    if not dropout:
        return None
    generator = torch.Generator(x.device).manual_seed(seed)
    return torch.empty(x.shape, dtype=dtype, device=x.device).bernoulli_(1 - dropout, generator=generator)
