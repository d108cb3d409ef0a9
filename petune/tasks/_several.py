"""Examples that are several rows of the backbone's batch: the options of a question, the texts of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petune.errors import DataError
from petune.tasks._padding import Side, pad_inputs
from petune.tasks.base import Example


def several(parts: Sequence[Example], row: int, **notes: Any) -> Example:
    """One example of several parts, each with what the tokenizer gave for it. Its size is that of all of them."""
    return {"_parts": list(parts), "_pieces": sum(len(part["input_ids"]) for part in parts), "row": row, **notes}


def parts_of(example: Example) -> list[Example]:
    """The rows of the batch that an example takes; a plain one is one itself."""
    return list(example.get("_parts", [example]))


def side_of(tokenizer: Any) -> Side:
    """On which side the tokenizer pads."""
    side: Side = getattr(tokenizer, "padding_side", "right")
    return side


def pad_parts(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    """Every input of the parts of all examples, (P, T) each, those of one example beside each other."""
    return pad_inputs([part for example in examples for part in parts_of(example)], tokenizer, side_of(tokenizer))


def split_parts(logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
    """(P, ...) to one float32 array (parts, ...) per example."""
    rows = logits.detach().float().cpu()
    sizes = [len(parts_of(example)) for example in examples]
    return [one.numpy() for one in rows.split(sizes)]


def places(examples: Sequence[Example]) -> Tensor:
    """(B, K) int64: which rows of the batch are the parts of each example; -1 where it has fewer than others.

    Examples:
        >>> places([{"_parts": [{}, {}]}, {"_parts": [{}, {}, {}]}]).tolist()
        [[0, 1, -1], [2, 3, 4]]
    """
    sizes = [len(parts_of(example)) for example in examples]
    made = torch.full((len(sizes), max(sizes)), -1, dtype=torch.int64)
    first = 0
    for row, size in enumerate(sizes):
        made[row, :size] = torch.arange(first, first + size)
        first += size
    return made


def one_or_two(item: Any, index: int, columns: tuple[str, str]) -> Mapping[str, Any]:
    """A row to predict: a text, two of them, or a dict with the columns.

    Raises:
        DataError: none of these.
    """
    if isinstance(item, Mapping):
        return item
    if isinstance(item, str):
        return {columns[0]: item}
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return dict(zip(columns, item, strict=True))
    raise DataError(
        f"row {index}: {item!r} is no text and no pair of texts.", expected="Such as 'a text', or ('a', 'b')."
    )
