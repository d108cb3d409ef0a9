"""How often the right text is among the nearest ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from petune.metrics._forms import Form
from petune.metrics.base import AnswerMetric


class RecallAtK(AnswerMetric):
    """The share of rows with a right text among the first k of their ranking, as `recall_at_1`, `_5` and `_10`.

    Where a row has several right texts, one of them is enough.

    Examples:
        >>> figures = RecallAtK().compute(predictions=[["b", "a"], ["b", "a"]], references=["b", "a"])
        >>> figures["recall_at_1"], figures["recall_at_5"]
        (0.5, 1.0)
    """

    forms: ClassVar[tuple[Form, ...]] = ("ranking",)
    ks: ClassVar[tuple[int, ...]] = (1, 5, 10)
    """A ranking holds as many as the last of them."""

    def _compute(self, predictions: list[list[str]], references: list[Any], **_: Any) -> dict[str, float]:
        places = [_place(ranking, right) for ranking, right in zip(predictions, references, strict=True)]
        return {f"recall_at_{k}": sum(place < k for place in places) / len(places) for k in self.ks}


def _place(ranking: Sequence[str], right: str | Sequence[str]) -> int:
    """Where the first right text is, from 0; far beyond every k where it is not."""
    known = {right} if isinstance(right, str) else set(right)
    return next((place for place, text in enumerate(ranking) if text in known), 10**9)
