"""Similarity from pairs alone: two texts with the same key words belong together, all other rows are negatives."""

from __future__ import annotations

import random
from typing import Any

from petune.tasks.similarity import Similarity
from tests import kinds, tiny

FAMILIES = ("bert", "mpnet", "qwen3")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> Similarity:
    """A softmax that is not too steep for random backbones."""
    return Similarity(temperature=0.2)


def rows(n: int) -> list[dict[str, Any]]:
    """Two texts of different lengths about the same."""
    draw = random.Random(0)
    made = []
    for index in range(n):
        words = draw.sample(tiny.KEYS[index % 6], k=2)
        first, second = (draw.choices(tiny.FILLER, k=draw.randint(1, 6)) for _ in range(2))
        made.append({"text": " ".join([*first, *words]), "text_pair": " ".join([*words, *second])})
    return made
