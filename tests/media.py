"""Pictures and sounds that can be learnt, and what makes them into tensors for the tiny backbones: made here."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from transformers import ViTImageProcessorPil

SIDE = 32
"""Pixels that the tiny backbones take."""
COLOURS = ("red", "green", "blue")


def image_processor(family: str = "vit") -> ViTImageProcessorPil:
    """Resizes to 32 by 32 pixels; one for all families."""
    return ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def pictures(n: int, classes: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows of image and label: noise of several sizes, in which one colour is stronger."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    made = []
    for index in range(n):
        array = noise.integers(0, 100, (draw.randint(20, 40), draw.randint(20, 40), 3), dtype=np.uint8)
        array[..., index % classes] += 120
        made.append({"image": array, "label": COLOURS[index % classes]})
    return made
