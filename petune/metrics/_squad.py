"""What the official scoring of SQuAD does to texts before it compares them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, without punctuation, English articles and surplus white space.

    Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", arXiv:1606.05250, and the
    script that was published with it.

    Examples:
        >>> normalised("The  U.S. Senate!")
        'us senate'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def best_mean(
    score: Callable[[str, str], float], answers: Sequence[str], references: Sequence[str | Sequence[str]]
) -> float:
    """The mean over rows of the best score against any of a row's references; none at all means the empty text."""
    total = 0.0
    for answer, right in zip(answers, references, strict=True):
        known = [right] if isinstance(right, str) else list(right) or [""]
        total += max(score(answer, one) for one in known)
    return total / len(answers)
