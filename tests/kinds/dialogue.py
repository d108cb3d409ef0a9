"""Conversations of one and of two turns, by the plain chat template."""

from __future__ import annotations

from typing import Any

from petune.tasks.dialogue import Dialogue
from tests import kinds, tiny
from tests.kinds import pieces as real  # noqa: F401

FAMILIES = ("qwen2", "qwen3")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> Dialogue:
    """A task that writes little."""
    return Dialogue(max_new_tokens=8)


def rows(n: int) -> list[dict[str, Any]]:
    """Each text is answered with its label; every second conversation goes on once."""
    made = []
    for number, row in enumerate(tiny.rows(n)):
        turns = [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"]}]
        more = [{"role": "user", "content": "a film"}, {"role": "assistant", "content": row["label"]}]
        made.append({"messages": turns + more * (number % 2)})
    return made


def asked(row: dict[str, Any]) -> list[dict[str, str]]:
    """All turns but the last reply."""
    turns: list[dict[str, str]] = row["messages"][:-1]
    return turns
