"""A few rows of each class, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from petune.errors import DataError


def k_shot(names: Sequence[str], k: int, seed: int) -> list[int]:
    """The indices of `k` rows of each class, in their order; the draw of a class depends on no other class.

    Args:
        names: the class of each row.

    Raises:
        DataError: a class of fewer rows.

    Examples:
        >>> k_shot(["a", "b", "a", "b", "a"], 1, seed=0)
        [2, 3]
    """
    found: list[int] = []
    for name in dict.fromkeys(names):
        rows = [index for index, other in enumerate(names) if other == name]
        if len(rows) < k:
            raise DataError(
                f"The class {name!r} has {len(rows)} rows.",
                expected=f"shots={k} asks for as many of each.",
                fix="Lower shots, or add rows.",
            )
        found += random.Random(f"{seed} {name}").sample(rows, k)
    return sorted(found)
