"""What may watch a run: the contract, and the writer of `history.jsonl`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from petune.errors import CheckpointError
from petune.storage.strict_json import nulled
from petune.training.report import TrainReport

Row = dict[str, Any]
"""A row of the history; see `TrainReport.history`."""


class RunStart(NamedTuple):
    """What is known before the first step."""

    total: int
    """Optimizer steps of the whole run."""
    done: int
    """Steps that a resumed run has behind it."""
    epochs: int
    history: list[Row]
    """The rows of the steps that are done."""
    metric: str | None = None
    """The figure that picks the best evaluation; None without evaluations."""
    greater_is_better: bool = True
    """Whether a larger figure is the better one."""


class Callback:
    """Watches a run; override what you need. Called on the main process only, in the order of `callbacks=`.

    Examples:
        >>> class Last(Callback):
        ...     def on_evaluate(self, row):
        ...         self.row = row
    """

    def on_start(self, start: RunStart) -> None:
        """Before the first step."""

    def on_step(self, row: Row) -> None:
        """After an optimizer step. On a GPU several steps are told at once, so that none has to wait for its loss."""

    def on_evaluate(self, row: Row) -> None:
        """After an evaluation; figures are `eval_<name>`."""

    def on_end(self, report: TrainReport | None) -> None:
        """At the end, however the run ended; None when it failed."""


class HistoryWriter(Callback):
    """Appends each row of the history to `history.jsonl`.

    At the start the file is set to the rows of the steps that are done: none for a fresh run, and for a resumed one
    those of its checkpoint, so rows that a killed run wrote after it are not there twice. A figure that is not finite
    is null.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.jsonl"
        self._file: IO[str] | None = None

    def on_start(self, start: RunStart) -> None:
        with self._telling():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_name(".history.jsonl.tmp")
            fresh.write_text("".join(map(_line, start.history)), encoding="utf-8")
            os.replace(fresh, self.path)
            self._file = self.path.open("a", encoding="utf-8")

    def on_step(self, row: Row) -> None:
        assert self._file is not None
        with self._telling():
            self._file.write(_line(row))
            self._file.flush()

    on_evaluate = on_step

    def on_end(self, report: TrainReport | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written was told when it was tried
                self._file.close()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Raises CheckpointError, with the path, in place of OSError."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.path} could not be written: {error}.",
                expected="Checkpoints are untouched.",
                fix="Make room or check the permissions, then pass resume='auto'.",
            ) from error


def _line(row: Row) -> str:
    return json.dumps(nulled(row)) + "\n"
