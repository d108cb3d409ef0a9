"""A decoder's row as two halves: a front that is read only, and an end that is learnt."""

from __future__ import annotations

from typing import Any

from petune.tasks.base import IGNORE, Example

Row = tuple[list[int], list[int]]
"""The pieces that no loss falls on, and those that follow."""


def cut_to(row: Row, limit: int) -> Row:
    """A front's last pieces, and what follows from its first on, in `limit` pieces.

    Examples:
        >>> cut_to(([1, 2, 3], [4, 5]), 4), cut_to(([1, 2, 3], [4, 5, 6, 7]), 3)
        (([2, 3], [4, 5]), ([3], [4, 5]))
    """
    front, end = row
    end = end[: limit - bool(front)]
    return front[max(0, len(front) + len(end) - limit) :], end


def example_of(index: int, row: Row, labelled: bool) -> Example:
    """The example of a row that fits."""
    front, end = row
    pieces = front + end
    made: Example = {"input_ids": pieces, "attention_mask": [1] * len(pieces), "row": index}
    if labelled:
        made["labels"] = [IGNORE] * len(front) + end
    return made


def asked_of(example: Example, prompt: list[int]) -> dict[str, Any]:
    """What a labelled example notes of the prompt that a prediction would be asked.

    Examples:
        >>> asked_of({"input_ids": [1, 2, 3]}, [1, 2]), asked_of({"input_ids": [2, 3]}, [1, 2])
        ({'_front': 2}, {'_prompt': [1, 2]})
    """
    same = example["input_ids"][: len(prompt)] == prompt
    return {"_front": len(prompt)} if same else {"_prompt": prompt}
