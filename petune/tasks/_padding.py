"""Padding examples into tensors. Which side, and with what, is the tokenizer's own setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    Examples:
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
    """(B, ...) of arrays: images (3, H, W) and spectra of one shape, waves (samples,) filled up with zeros.

    float32, but int64 for arrays of whole numbers, which are masks.

    Examples:
        >>> stack([np.ones(3), np.ones(2)]).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    """
    arrays = [np.asarray(array) for array in arrays]  # pictures of examples are numbers only from here on
    longest = max(array.shape[-1] for array in arrays)
    whole = [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])]) for a in arrays]
    kind = np.float32 if arrays[0].dtype.kind == "f" else np.int64
    return torch.from_numpy(np.stack(whole).astype(kind))


PATCH, HOP = 16, 320
"""Pixels of a side, and samples of a wave, that a position is counted for; a backbone's own differ somewhat."""


def positions(shape: Sequence[int]) -> int:
    """About how many positions a backbone makes of a row that is no text: what it counts as in batches and speeds.

    Args:
        shape: (3, H, W) of a picture, (bins, frames) of a spectrum, (samples,) of a wave.

    Examples:
        >>> positions((3, 224, 224)), positions((80, 3000)), positions((16_000,))
        (197, 1500, 50)
    """
    if len(shape) == 3:
        return 1 + (shape[1] // PATCH) * (shape[2] // PATCH)
    return max(1, shape[1] // 2 if len(shape) == 2 else shape[0] // HOP)


def told(example: Example) -> list[str]:
    """The names of what an example tells of its row in a batch.

    Examples:
        >>> told({"input_ids": [5], "labels": 1, "row": 0, "_context": "a text"})
        ['input_ids']
    """
    return [key for key in example if key not in BOOKKEEPING and not key.startswith("_")]


def shapes(example: Example) -> list[tuple[int, ...]]:
    """Of the pictures and sounds in an example, which only meet others of their shape."""
    return [tuple(value.shape) for value in example.values() if hasattr(value, "__array__")]


def size_of(inputs: Mapping[str, Tensor]) -> tuple[int, int]:
    """Rows of a batch, and the positions of each, those that only pad included."""
    if "input_ids" in inputs:
        rows, length = inputs["input_ids"].shape
        return rows, length
    first = next(tensor for tensor in inputs.values() if tensor.is_floating_point())
    return len(first), positions(first.shape[1:])


def pad_inputs(examples: Sequence[Example], tokenizer: Any, side: Side) -> dict[str, Tensor]:
    """Every input of the examples, (B, T) each; (B, ...) for arrays."""
    values: dict[str, Any] = {
        "input_ids": getattr(tokenizer, "pad_token_id", None),
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
    }
    made = {}
    for key in told(examples[0]):
        rows = [example[key] for example in examples]
        made[key] = stack(rows) if hasattr(rows[0], "__array__") else pad(rows, values.get(key, 0), side)
    return made
