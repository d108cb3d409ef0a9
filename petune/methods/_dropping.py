"""The product with which a layer reads its input, dropout included, for a graph that keeps little but that input.

    down = dropout(x) Wᵀ        x: (..., N), W: (R, N) with R far below N

The frozen map of a site, its neighbours at the same input and this product all need the very tensor x. Written plainly
the product would keep x dropped, and dropout its mask: two more tensors of x's size for each site. Here the mask is
kept as bits, an 8th of a byte per value. The product is made in the type of x: the small W is cast, x never.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from petune.methods._stacking import product

STEPS = 2**16
"""A share to drop is a multiple of 1 / STEPS: each value is decided by 16 random bits."""
EIGHT = 8
GATHER = 0x0102040810204080
"""Times eight bytes of 0 or 1, this has them as the bits of the highest byte."""


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
    if torch.compiler.is_compiling():
        return product(F.dropout(x, dropout) if dropout else x, weight.to(x.dtype).mT)
    dtype = _computing(x)
    if dropout or (dtype != x.dtype and weight.dim() == 2 and torch.is_grad_enabled()):
        kept = drawn(x, dropout) if dropout else None
        return _Narrowed.apply(x, weight, kept, _share(dropout), dtype)  # type: ignore[no-any-return, no-untyped-call]
    if x.dtype == weight.dtype == dtype:
        return product(x, weight.mT)
    return product(x.to(dtype), weight.to(dtype).mT)


def drawn(x: Tensor, dropout: float) -> Tensor:
    """Which values of x are kept, as one draw from the generator of its device.

    Returns:
        uint8, 1 or 0 for each value, as long as x has values, and up to 7 more, so that eights are whole.
    """
    size = -(-x.numel() // EIGHT) * EIGHT
    if x.device.type not in ("cpu", "cuda"):
        return torch.empty(size, dtype=torch.uint8, device=x.device).bernoulli_(1 - _share(dropout))
    # Four decisions in each random number: torch's own dropout draws one for every value.
    draws = torch.empty(size // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    return (draws.view(torch.int16) >= _steps(dropout) - STEPS // 2).view(torch.uint8)


def _steps(dropout: float) -> int:
    return min(round(dropout * STEPS), STEPS - 1)


def _share(dropout: float) -> float:
    """The share that is really dropped."""
    return _steps(dropout) / STEPS


def _computing(x: Tensor) -> torch.dtype:
    """The type in which a product of x is made here."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


class _Narrowed(torch.autograd.Function):
    """The product with dropout, or under an autocast that would keep its own copy of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kept: Tensor | None, share: float, dtype: torch.dtype) -> Tensor:
        """x (..., N), weight (R, N), kept as from `drawn` -> (..., R)."""
        ctx.save_for_backward(x, weight, None if kept is None else packed(kept))
        ctx.share, ctx.dtype = share, dtype
        read = x.to(dtype)
        read = read if kept is None else read * kept[: x.numel()].view(x.shape)
        return product(read, _enlarged(weight, share, dtype).mT)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (..., R) -> the gradients by x and by weight."""
        x, weight, bits = ctx.saved_tensors
        grad, by_x, by_weight = grad.to(ctx.dtype), None, None
        mask = None if bits is None else unpacked(bits, ctx.dtype)[: x.numel()].view(x.shape)
        if ctx.needs_input_grad[0]:
            by_x = product(grad, _enlarged(weight, ctx.share, ctx.dtype))
            by_x = (by_x if mask is None else by_x.mul_(mask)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            read = x.to(ctx.dtype) if mask is None else mask.mul_(x)
            by_weight = grad.reshape(-1, grad.shape[-1]).mT @ read.reshape(-1, read.shape[-1])
            by_weight = by_weight.to(weight.dtype).div_(1 - ctx.share)
        return by_x, by_weight, None, None, None


def _enlarged(weight: Tensor, share: float, dtype: torch.dtype) -> Tensor:
    """The values of x that are kept count 1 / (1 - share) times; the weight takes the factor, for it is smaller."""
    return (weight / (1 - share) if share else weight).to(dtype)


def packed(kept: Tensor) -> Tensor:
    """Zeros and ones, uint8 (8 n,) -> (n,) uint8, a bit for each.

    Examples:
        >>> ones = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0] * 3, dtype=torch.uint8)
        >>> packed(ones).shape, bool((unpacked(packed(ones), torch.float32) == ones).all())
        (torch.Size([3]), True)
    """
    return ((kept.view(torch.int64) * GATHER) >> 56).to(torch.uint8)


def unpacked(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse, of a type."""
    return _table(bits.device, dtype).index_select(0, bits.to(torch.int32)).view(-1)


@functools.cache
def _table(device: torch.device, dtype: torch.dtype) -> Tensor:
    """What each byte stands for, (256, 8); told by packing every pattern, whatever the machine's order of bytes."""
    with torch.inference_mode(False), torch.no_grad():
        places = torch.arange(EIGHT, dtype=torch.uint8)
        patterns = (torch.arange(256).unsqueeze(1) >> places).bitwise_and_(1).to(torch.uint8)
        table = torch.empty(256, EIGHT, dtype=dtype)
        table[packed(patterns.flatten()).long()] = patterns.to(dtype)
        return table.to(device)
