"""Instructions with an input, and their outputs, as Alpaca has them."""

from __future__ import annotations

from typing import Any

from petune.tasks.instruction import Instruction
from tests import kinds, tiny
from tests.kinds import pieces as real  # noqa: F401

FAMILIES = ("opt", "llama")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> Instruction:
    """A task that writes little."""
    return Instruction(max_new_tokens=8)


def rows(n: int) -> list[dict[str, Any]]:
    """What is told of a text, the text, and its label."""
    return [{"instruction": "a film", "input": row["text"], "output": row["label"]} for row in tiny.rows(n)]


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """The row itself, whose output is not read."""
    return row
