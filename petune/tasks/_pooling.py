"""From the states of pieces to one vector for a text."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Pooling = Literal["mean", "cls", "last"]


def pooled(states: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """(B, T, D) -> (B, D) float32 of length 1: the mean of the real pieces, the first one's state, or the last one's.

    Reimers & Gurevych 2019, "Sentence-BERT", arXiv:1908.10084.

    Args:
        mask: (B, T), 1 at real pieces; padding may be on either side.

    Examples:
        >>> states, mask = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
        >>> pooled(states, mask, "mean")
        tensor([[0.6000, 0.8000]])
    """
    states = states.float()
    if how == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return functional.normalize((states * weights).sum(1) / weights.sum(1).clamp_min(1.0), dim=-1)
    places = torch.arange(mask.shape[1], device=mask.device)
    real = mask.bool()
    if how == "cls":
        at = torch.where(real, places, mask.shape[1]).min(1).values
    else:
        at = torch.where(real, places, -1).max(1).values
    rows = torch.arange(len(states), device=mask.device)
    return functional.normalize(states[rows, at.clamp(0, states.shape[1] - 1)], dim=-1)
