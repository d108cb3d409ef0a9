"""A text and its summary, searched for with two beams."""

from __future__ import annotations

from typing import Any

from petune.tasks.summarization import Summarization
from tests import kinds, tiny
from tests.kinds.seq2seq import real  # noqa: F401

FAMILIES = ("bart", "mbart")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> Summarization:
    """A task that writes little."""
    return Summarization(max_new_tokens=6, generation={"num_beams": 2})


def rows(n: int) -> list[dict[str, Any]]:
    """A text and its label."""
    return [{"document": row["text"], "summary": row["label"]} for row in tiny.rows(n)]
