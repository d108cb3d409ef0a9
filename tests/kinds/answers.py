"""Question answering: who is there, and where; every third row has no answer. Both texts are of different lengths."""

from __future__ import annotations

import random
from typing import Any

from torch import Tensor

from petune.tasks.question_answering import QuestionAnswering as task  # noqa: F401
from tests import tiny

FAMILIES = ("bert", "mpnet", "qwen2", "t5")


def rows(n: int) -> list[dict[str, Any]]:
    """A question, a context with one name in it, and where the name is."""
    draw = random.Random(0)
    return [_row(draw, index) for index in range(n)]


def _row(draw: random.Random, index: int) -> dict[str, Any]:
    name = draw.choice(tiny.PEOPLE if index % 2 else tiny.PLACES)
    before, after = (" ".join(draw.choices(tiny.FILLER, k=draw.randint(1, 4))) for _ in range(2))
    context = f"{before} {name} {after}" if index % 3 else f"{before} {after}"
    answers = {"text": [name], "answer_start": [len(before) + 1]} if index % 3 else {"text": [], "answer_start": []}
    return {"question": ("where", "who")[index % 2] + " was it", "context": context, "answers": answers}


def asked(row: dict[str, Any]) -> tuple[str, str]:
    """A question with its context."""
    return row["question"], row["context"]


def real(logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """The logits of pieces that are no padding."""
    return logits[inputs["attention_mask"].bool()]
