"""One seed for everything that draws random numbers."""

from __future__ import annotations

from accelerate.utils import set_seed


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch. Called before an adapter is built, so that the seed covers its first weights."""
    set_seed(seed)
