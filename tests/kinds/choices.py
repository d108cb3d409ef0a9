"""Multiple choice: which of two to four words tells of what the text tells of."""

from __future__ import annotations

import random
from typing import Any

from petune.tasks.multiple_choice import MultipleChoice as task  # noqa: F401
from tests import tiny

FAMILIES = ("bert", "roberta", "llama", "distilbert")


def rows(n: int) -> list[dict[str, Any]]:
    """A text, options one of which is a label of its class, and which one; rows have two to four options."""
    draw = random.Random(0)
    made = []
    for index, row in enumerate(tiny.rows(n, classes=2)):
        wrong = [tiny.KEYS[1 - index % 2][0], "a film", "some old man"][: 1 + index % 3]
        options = [*wrong, tiny.KEYS[index % 2][0]]
        draw.shuffle(options)
        made.append({"question": row["text"], "options": options, "label": options.index(tiny.KEYS[index % 2][0])})
    return made


def asked(row: dict[str, Any]) -> tuple[str, list[str]]:
    """A question with its options."""
    return row["question"], row["options"]
