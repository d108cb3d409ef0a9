"""What scores of written texts have in common: every right text of a row, and the packages that count."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from petune.errors import ConfigError, DataError


def right_texts(references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """All right texts of each row: a row may have one, or a list of them.

    Examples:
        >>> right_texts(["Paris"]), right_texts([["Paris", "paris"]])
        ([['Paris']], [['Paris', 'paris']])
    """
    return [[row] if isinstance(row, str) else list(row) for row in references]


def streams(references: Sequence[str | Sequence[str]]) -> list[list[Any]]:
    """The same as sacrebleu wants it: the first right text of every row, the second of every row, and so on.

    Examples:
        >>> streams([["a", "b"], ["c"]])
        [['a', 'c'], ['b', None]]
    """
    rows = right_texts(references)
    return [[row[n] if n < len(row) else None for row in rows] for n in range(max(map(len, rows)))]


def error_rate(kind: str, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> float:
    """jiwer's `wer` or `cer` of all rows together; of several right texts the nearest counts.

    Raises:
        ConfigError: jiwer is not installed.
        DataError: a right text without a word, over which nothing can be divided.
    """
    need_package("jiwer", kind, "audio")
    import jiwer

    rate = getattr(jiwer, kind)
    rows = right_texts(references)
    for index, row in enumerate(rows):
        if not row or not all(text.strip() for text in row):
            raise DataError(f"row {index}: the right text is empty.", fix="Drop the row, or fill it in.")
    nearest = [min(row, key=lambda text: rate(text, said)) for row, said in zip(rows, predictions, strict=True)]
    return float(rate(nearest, list(predictions)))


def need_package(package: str, metric: str, extra: str = "generation") -> None:
    """Refuses to score without the package that does it.

    Raises:
        ConfigError: with the extra that brings it.
    """
    if find_spec(package) is None:
        raise ConfigError(
            f"The metric {metric} needs {package.replace('_', '-')}, which is not installed.",
            expected=f"It comes with the extra {extra!r}.",
            fix=f"Run: pip install 'petune[{extra}]'. Or leave texts out: evaluate(..., generate=False).",
        )
