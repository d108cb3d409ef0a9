"""Similarity from scores: how many key words two texts share."""

from __future__ import annotations

import random
from typing import Any

from petune.tasks.similarity import Similarity
from tests import kinds, tiny

FAMILIES = ("bert", "distilbert", "gpt2")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> Similarity:
    """The last piece has seen all others, in a decoder too."""
    return Similarity(pooling="last")


def rows(n: int) -> list[dict[str, Any]]:
    """Two texts of different lengths, and 0 to 4."""
    draw = random.Random(0)
    made = []
    for index in range(n):
        same = draw.choice((0, 0, 2, 4))
        first = draw.sample(tiny.KEYS[index % 6], k=4)
        second = [*first[:same], *draw.sample(tiny.KEYS[(index + 1) % 6], k=4 - same)]
        more = draw.choices(tiny.FILLER, k=draw.randint(0, 4))
        made.append({"text": " ".join(first), "text_pair": " ".join([*more, *second]), "score": float(same)})
    return made


def asked(row: dict[str, Any]) -> tuple[str, str]:
    """Two texts, whose cosine is the answer."""
    return row["text"], row["text_pair"]
