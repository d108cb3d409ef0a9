"""TIES after trimming: each entry gets one sign, and the mean of those that have it.

    γ = sign(Σ τᵢ)                          the elected sign ("frequency": sign(Σ sign τᵢ))
    τ = Σ_{i ∈ A} wᵢ τᵢ / |A|               A: the adapters whose entry is not zero and has the sign γ

Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models", arXiv:2306.01708. A weight below zero
turns its change around before anything is elected, so that it equals the negated adapter with the weight above zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Majority = Literal["total", "frequency"]


def elected_mean(changes: list[Tensor], weights: Sequence[float], majority: Majority) -> Tensor:
    """The mean of the entries with the elected sign. The list is emptied on the way: its memory is needed no longer.

    Args:
        changes: (d_out, d_in) each, trimmed; they are written over.
        weights: one per change.
        majority: whether a sign is elected by the sum of the entries or by their number; a draw counts as plus.

    Examples:
        >>> trimmed = [torch.tensor([[4.0, 1.0, 0.0]]), torch.tensor([[-1.0, 3.0, -2.0]])]
        >>> elected_mean(trimmed, [1.0, 1.0], "total").tolist()
        [[4.0, 2.0, -2.0]]
    """
    sizes = [abs(weight) for weight in weights]
    for change, weight in zip(changes, weights, strict=True):
        if weight < 0:
            change.neg_()
    total = torch.zeros_like(changes[0])
    for change in changes:
        total.add_(change if majority == "total" else change.sign())
    plus = total >= 0
    total.zero_()
    voters = torch.zeros_like(plus, dtype=torch.uint8 if len(changes) < 256 else torch.int32)
    while changes:
        change = changes.pop()
        against = (change > 0).ne_(plus).logical_or_(change == 0)
        voters.add_(~against)
        total.add_(change.masked_fill_(against, 0.0), alpha=sizes[len(changes)])
    return total.div_(voters.clamp_(min=1))
