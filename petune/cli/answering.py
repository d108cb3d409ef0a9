"""Answers as columns: what a tuner says of some rows, and how sure it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from petune.cli.streams import Chunk
from petune.cli.usage import UsageError
from petune.data.preparing import tell
from petune.errors import DataError
from petune.lookup import near
from petune.tasks._spans import Answer
from petune.tasks._turns import without_reply
from petune.tasks.base import Table

if TYPE_CHECKING:
    from petune import Tuner

_ROW = re.compile(r"\brow (\d+)\b")


class Answering:
    """Puts columns with answers beside the columns of rows.

    Args:
        column: of the answer; `<column>_probability` holds the probability of the answer, and with `every` there is
            `<column>_probability_<label>` for each label, or `<column>_probabilities` where a row has its own options
            or spans. An answer out of a context has `<column>_start` and `<column>_end` as well.
        source: what the rows come from, for messages.
    """

    def __init__(self, tuner: Tuner, column: str, *, every: bool, batch_size: int, source: str) -> None:
        self.tuner, self.column, self.every = tuner, column, every
        self.batch_size, self.source = batch_size, source
        self._said = False

    def columns_of(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The rows with their answers.

        Raises:
            DataError: a row that cannot be answered, with its line.
            UsageError: the rows have a column of that name already.
        """
        self._need_columns(chunk)
        taken = next((key for row in chunk.rows for key in row if key.split("_probability")[0] == self.column), None)
        if taken is not None:
            raise self._taken(taken)
        try:
            answers, probabilities = self.tuner._work.judge(self._asked(chunk.rows), self.batch_size)
        except DataError as error:
            raise self._placed(error, chunk.lines) from error
        labels = self.tuner.adapter.task.labels
        found = []
        for index, (row, answer) in enumerate(zip(chunk.rows, answers, strict=True)):
            own = None if probabilities is None else probabilities[index]
            made = self._columns(_plain(answer), own, labels)
            if not made.keys().isdisjoint(row):
                raise self._taken(next(key for key in made if key in row))
            found.append({**row, **made})
        return found

    def _taken(self, column: str) -> UsageError:
        return UsageError(
            f"{self.source} has a column {column!r} already.", fix="Name the column of the answers with --column."
        )

    def _asked(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows; of conversations that end in a reply, as files to train on hold them, what was said before it."""
        task = self.tuner.adapter.task
        column = getattr(task, "messages", None) if getattr(task, "converses", False) else None
        if column is None:
            return rows
        asked = [{**row, column: without_reply(row[column])} if column in row else row for row in rows]
        if not self._said and asked != rows:
            self._said = True
            tell([f"{self.source}: conversations that end in a reply are answered without that reply."])
        return asked

    def _need_columns(self, chunk: Chunk) -> None:
        """Raises DataError where the columns of the texts are not there, with those that are."""
        task, columns = self.tuner.adapter.task, tuple(dict.fromkeys(key for row in chunk.rows for key in row))
        table = Table(chunk.rows, columns, self.source, lambda row: f"{self.source}, line {chunk.lines[row]}")
        there = task.unfolded(table).columns
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
        if isinstance(answer, Answer):
            made |= {self.column: str(answer), **_of_span(answer, f"{self.column}_")}
            if self.every and probabilities is not None:
                made[f"{self.column}_probabilities"] = [{"text": str(one), **_of_span(one)} for one in probabilities]
            return made
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
        elif self.every and not labels and shares.ndim == 1 and sure is not None:  # the row's own options, in order
            made[f"{self.column}_probabilities"] = [_rounded(share) for share in shares]
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


def _of_span(answer: Answer, before: str = "") -> dict[str, Any]:
    """How sure an answer is, and where it is in its context."""
    told = {"probability": _rounded(answer.score), "start": int(answer.start), "end": int(answer.end)}
    return {f"{before}{key}": value for key, value in told.items()}


def _rounded(share: Any) -> float:
    return round(float(share), 6)


def _plain(value: Any) -> Any:
    """An answer as JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
