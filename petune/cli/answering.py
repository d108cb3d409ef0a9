"""Answers as columns: what a tuner says of some rows, and how sure it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from petune.cli.streams import Chunk
from petune.cli.usage import UsageError
from petune.errors import DataError
from petune.lookup import near

if TYPE_CHECKING:
    from petune import Tuner

_ROW = re.compile(r"\brow (\d+)\b")


class Answering:
    """Puts columns with answers beside the columns of rows.

    Args:
        column: of the answer; `<column>_probability` holds the probability of the answer, and with `every` there is
            `<column>_probability_<label>` for each label.
        source: what the rows come from, for messages.
    """

    def __init__(self, tuner: Tuner, column: str, *, every: bool, batch_size: int, source: str) -> None:
        self.tuner, self.column, self.every = tuner, column, every
        self.batch_size, self.source = batch_size, source

    def columns_of(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The rows with their answers.

        Raises:
            DataError: a row that cannot be answered, with its line.
            UsageError: the rows have a column of that name already.
        """
        self._need_columns(chunk)
        taken = next((key for row in chunk.rows for key in row if key.split("_probability")[0] == self.column), None)
        if taken is not None:
            raise UsageError(
                f"{self.source} has a column {taken!r} already.", fix="Name the column of the answers with --column."
            )
        try:
            answers, probabilities = self.tuner._work.judge(chunk.rows, self.batch_size)
        except DataError as error:
            raise self._placed(error, chunk.lines) from error
        labels = self.tuner.adapter.task.labels
        found = []
        for index, (row, answer) in enumerate(zip(chunk.rows, answers, strict=True)):
            own = None if probabilities is None else probabilities[index]
            found.append({**row, **self._columns(_plain(answer), own, labels)})
        return found

    def _need_columns(self, chunk: Chunk) -> None:
        """Raises DataError where the columns of the texts are not there, with those that are."""
        task, there = self.tuner.adapter.task, list(dict.fromkeys(key for row in chunk.rows for key in row))
        for column in (name for knob in task.texts_in if isinstance(name := getattr(task, knob), str)):
            if column not in there:
                raise DataError(
                    f"{self.source} has no column {column!r}.",
                    expected=f"Its columns are {', '.join(map(repr, there))}.",
                    fix=near(column, there),
                )

    def _columns(self, answer: Any, probabilities: Any, labels: Sequence[str]) -> dict[str, Any]:
        """Answer and probabilities of one row; (C,) for a text, (words, C) for tags."""
        made = {self.column: answer}
        if probabilities is None:
            return made
        try:
            shares = np.asarray(probabilities, dtype=np.float64)
        except (TypeError, ValueError):  # a task's own form of how sure it is, such as ranked spans
            return made
        sure = _of_answer(answer, shares, labels)
        if sure is not None:
            made[f"{self.column}_probability"] = sure
        if self.every and shares.shape == (len(labels),):
            named = zip(labels, shares, strict=True)
            made |= {f"{self.column}_probability_{label}": _rounded(share) for label, share in named}
        return made

    def _placed(self, error: DataError, lines: Sequence[int]) -> DataError:
        """The error with the line of the source in place of the row of a chunk."""

        def line(match: re.Match[str]) -> str:
            index = int(match[1])
            return f"{self.source}, line {lines[index]}" if index < len(lines) else match[0]

        what, placed = _ROW.subn(line, error.what, count=1)
        where = "" if placed else f"{self.source}, lines {lines[0]} to {lines[-1]}: "
        return DataError(f"{where}{what}", expected=error.expected, fix=error.fix)


def _of_answer(answer: Any, shares: Any, labels: Sequence[str]) -> Any:
    """The probability of an answer, or of each of its parts; None where nothing says it."""
    if shares.shape == (len(labels),) and isinstance(answer, str) and answer in labels:
        return _rounded(shares[labels.index(answer)])
    if shares.shape == (len(labels),) and isinstance(answer, list) and all(one in labels for one in answer):
        return [_rounded(shares[labels.index(one)]) for one in answer]
    if shares.ndim == 1 and len(shares) and not labels and isinstance(answer, str):  # one of the row's own options
        return _rounded(shares.max())
    if shares.ndim == 2 and isinstance(answer, list) and len(answer) == len(shares):
        return [_rounded(row.max()) for row in shares]
    return None


def _rounded(share: Any) -> float:
    return round(float(share), 6)


def _plain(value: Any) -> Any:
    """An answer as JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
