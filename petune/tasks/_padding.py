"""Padding examples into tensors. Which side, and with what, is the tokenizer's own setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from petune.tasks.base import Example

BOOKKEEPING = frozenset({"labels", "row", "start", "size", "words", "tags"})
"""What an example carries for the task; everything else goes to the backbone."""

Side = Literal["left", "right"]


def pad(lists: Sequence[Sequence[int]], value: int, side: Side = "right") -> Tensor:
    """(B, T) int64 of rows of different lengths.

    Example:
        >>> pad([[1, 2, 3], [4]], 0).tolist()
        [[1, 2, 3], [4, 0, 0]]
    """
    longest = max(map(len, lists))
    rows = []
    for items in lists:
        filler = [value] * (longest - len(items))
        rows.append(filler + list(items) if side == "left" else list(items) + filler)
    return torch.tensor(rows, dtype=torch.int64)


def pad_inputs(examples: Sequence[Example], tokenizer: Any, side: Side) -> dict[str, Tensor]:
    """Every input of the examples, (B, T) each."""
    values = {"input_ids": tokenizer.pad_token_id, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    keys = [key for key in examples[0] if key not in BOOKKEEPING]
    return {key: pad([example[key] for example in examples], values.get(key, 0), side) for key in keys}
