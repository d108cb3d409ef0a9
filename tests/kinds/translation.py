"""A source and its translation, in the form of the hub's data sets."""

from __future__ import annotations

from typing import Any

from petune.tasks.translation import Translation
from tests import kinds, tiny
from tests.kinds.seq2seq import real  # noqa: F401

FAMILIES = ("marian", "t5")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> Translation:
    """A task that writes little."""
    return Translation(source_language="en", target_language="xx", max_new_tokens=8)


def rows(n: int) -> list[dict[str, Any]]:
    """A text and the label that it is turned into."""
    return [{"translation": {"en": row["text"], "xx": row["label"]}} for row in tiny.rows(n)]


def asked(row: dict[str, Any]) -> str:
    """The source."""
    text: str = row["translation"]["en"]
    return text
