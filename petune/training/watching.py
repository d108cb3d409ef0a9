"""What petune itself watches each run with: the history file, and how far the run is."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from accelerate import Accelerator

from petune.training.callbacks import Callback, HistoryWriter, Row, RunStart
from petune.training.memory import MemoryMeter
from petune.training.progress import BEST_SO_FAR, SECONDS_BETWEEN_LINES, Best, figures_line, make_progress
from petune.training.report import TrainReport
from petune.training.tracking import Tracking
from petune.training.trainee import Trainee

NAMED = 6
"""Up to so many runs are named in a plain line; of more the range is told."""


def watchers(trainees: Sequence[Trainee], meter: MemoryMeter, accelerator: Accelerator) -> list[list[Callback]]:
    """The watchers of each run; several runs share one display."""
    made: list[list[Callback]] = []
    board = Board(meter, sys.stderr)
    for trainee in trainees:
        folder = trainee.config.output_dir
        own: list[Callback] = [HistoryWriter(Path(folder))] if folder is not None else []
        if trainee.config.progress == "auto":
            own.append(make_progress(meter) if len(trainees) == 1 else board.watcher(trainee.name))
        if trainee.config.log_with is not None:
            own.append(Tracking(trainee, accelerator))
        made.append(own)
    return made


class Board:
    """How far several runs are: a bar for each on a terminal, else one line for all every few seconds.

    `lora 120/900 0.4312  prefix 60/450 0.6120  3,410 tokens/s  1,204 MB`: name, step of steps, loss.
    """

    def __init__(self, meter: MemoryMeter, stream: IO[str], every_seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.meter, self.stream, self._every = meter, stream, every_seconds
        self._watchers: list[Watcher] = []
        self._said = time.monotonic()
        self._bars: Any = None
        self._running = 0

    def watcher(self, name: str) -> Callback:
        """A place on the board."""
        self._watchers.append(Watcher(self, name))
        return self._watchers[-1]

    def started(self, watcher: Watcher, start: RunStart) -> None:
        """A run begins."""
        self._running += 1
        if self.stream.isatty():
            watcher.bar = self._terminal().add_task(watcher.name, total=start.total, completed=start.done)
        elif start.done:
            self._say(f"{watcher.name}: resumed after step {start.done}/{start.total}")

    def moved(self, watcher: Watcher) -> None:
        """A run has made a step."""
        if self._bars is not None:
            self._bars.update(watcher.bar, completed=watcher.step, description=str(watcher))
        elif time.monotonic() - self._said >= self._every:
            self._say(self.line())

    def told(self, watcher: Watcher, words: str) -> None:
        """A run has something to say of itself."""
        if self._bars is not None:
            self._bars.console.print(f"{watcher.name}: {words}", highlight=False, markup=False)
        else:
            self._say(f"{watcher.name}: {words}")

    def ended(self) -> None:
        """A run is over; with the last one the bars stop."""
        self._running -= 1
        if not self._running and self._bars is not None:
            self._bars.stop()

    def line(self) -> str:
        """All runs in one line."""
        going = [watcher for watcher in self._watchers if watcher.goes]
        if len(going) <= NAMED:
            runs = "  ".join(map(str, going))
        else:
            losses = [watcher.loss for watcher in going]
            share = sum(watcher.step for watcher in going) / sum(watcher.total for watcher in going)
            runs = f"{len(going)} runs, {share:.0%} of their steps  loss {min(losses):.4f} to {max(losses):.4f}"
        speed = sum(watcher.speed for watcher in going)
        return f"{runs}  {speed:,.0f} tokens/s  {self.meter.now_megabytes:,.0f} MB"

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        print(line, file=self.stream, flush=True)

    def _terminal(self) -> Any:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bars = Progress(*columns, console=Console(file=self.stream), refresh_per_second=4)
            self._bars.start()
        return self._bars


class Watcher(Callback):
    """One run's place on a board."""

    def __init__(self, board: Board, name: str) -> None:
        self._board, self.name = board, name
        self.step, self.total, self.loss, self.speed, self.goes = 0, 1, 0.0, 0.0, False
        self.bar: Any = None

    def __str__(self) -> str:
        return f"{self.name} {self.step}/{self.total} {self.loss:.4f}"

    def on_start(self, start: RunStart) -> None:
        self.step, self.total, self.goes, self._best = start.done, start.total, True, Best(start)
        self._board.started(self, start)

    def on_step(self, row: Row) -> None:
        self.step, self.loss, self.speed = row["step"], row["loss"], row["tokens_per_second"]
        self._board.moved(self)

    def on_evaluate(self, row: Row) -> None:
        best = BEST_SO_FAR if self._best.is_at(row) else ""
        self._board.told(self, f"step {row['step']}/{self.total}  evaluation: {figures_line(row)}{best}")

    def on_end(self, report: TrainReport | None) -> None:
        if self.goes:
            self.goes = False
            if report is None or report.stopped_early:
                self._board.told(self, f"{'broke off' if report is None else 'stopped early'} after step {self.step}")
            self._board.ended()
