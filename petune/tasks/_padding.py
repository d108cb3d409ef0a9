"""Padding examples into tensors. Which side, and with what, is the tokenizer's own setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from petune.tasks.base import Example

BOOKKEEPING = frozenset({"labels", "row", "start", "size", "words", "tags"})
"""What an example carries for the task, besides keys that begin with an underscore; all else goes to the backbone."""

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


def stack(arrays: Sequence[np.ndarray]) -> Tensor:
    """(B, ...) float32 of arrays: images (3, H, W) and spectra of one shape, waves (samples,) filled up with zeros.

    Example:
        >>> stack([np.ones(3), np.ones(2)]).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    """
    longest = max(array.shape[-1] for array in arrays)
    whole = [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])]) for a in arrays]
    return torch.from_numpy(np.stack(whole).astype(np.float32))


def pad_inputs(examples: Sequence[Example], tokenizer: Any, side: Side) -> dict[str, Tensor]:
    """Every input of the examples, (B, T) each; (B, ...) for arrays."""
    values: dict[str, Any] = {
        "input_ids": getattr(tokenizer, "pad_token_id", None),
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
    }
    made = {}
    for key in (key for key in examples[0] if key not in BOOKKEEPING and not key.startswith("_")):
        rows = [example[key] for example in examples]
        made[key] = stack(rows) if isinstance(rows[0], np.ndarray) else pad(rows, values.get(key, 0), side)
    return made
