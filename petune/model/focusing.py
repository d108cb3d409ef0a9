"""A language model's logits at the supervised places alone.

    logits = H W_Vᵀ        H: (N, D) in place of (B * T, D), N the places on which a loss falls

With a vocabulary of 32,000 and more pieces the last product, and the logits that it leaves for the backward pass, are
a good part of a step; prompts and padding need none of it. transformers' `logits_to_keep` names columns, the same for
all rows. Here each row has its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.model.twins import with_children


def can_focus(model: PreTrainedModel) -> bool:
    """Whether a shell's logits are what one child of it, its map to the vocabulary, makes of hidden states."""
    return _vocabulary(model) is not None


def focused(model: PreTrainedModel, at: Tensor) -> PreTrainedModel:
    """The same model, sharing everything, whose logits are (1, N, V): those of some places.

    Args:
        model: one that can be focused.
        at: (N,) int64, ascending; place t of row b is b * T + t.
    """
    name = _vocabulary(model)
    assert name is not None
    return with_children(model, {name: _At(getattr(model, name), at)})


def _vocabulary(model: PreTrainedModel) -> str | None:
    """The name of the child that maps to the vocabulary."""
    found = model.get_output_embeddings()
    if not isinstance(found, nn.Linear):
        return None
    return next((name for name, child in model.named_children() if child is found), None)


class _At(nn.Module):
    """A map of some places."""

    def __init__(self, whole: nn.Module, at: Tensor) -> None:
        super().__init__()
        self.whole, self.at = whole, at

    def __getattr__(self, name: str) -> Any:
        """What else is asked of it (its weight's type) is the map's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("whole"), name)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> (1, N, V)."""
        kept = torch.index_select(hidden.reshape(-1, hidden.shape[-1]), 0, self.at)
        logits: Tensor = self.whole(kept.unsqueeze(0))
        return logits
