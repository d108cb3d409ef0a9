"""How far the run is: a bar and a table on a terminal, one plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

from petune.training.callbacks import Callback, Row, RunStart
from petune.training.memory import MemoryMeter
from petune.training.report import EVAL, TrainReport, epoch_of, epoch_table
from petune.training.selection import Selection
from petune.training.tables import cell

SECONDS_BETWEEN_LINES = 5.0
BEST_SO_FAR = "  best so far"
EPOCHS_SHOWN = 8
"""While the run goes on; at its end the whole table is printed."""


def say(lines: Sequence[str]) -> None:
    """Prints lines, each once: only on the main process, before Accelerate knows which one that is."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line, file=sys.stderr)


def make_progress(meter: MemoryMeter, stream: IO[str] | None = None) -> Callback:
    """A bar where a person watches, else plain lines; both go to the standard error."""
    stream = stream or sys.stderr
    return ProgressBar(meter, stream) if stream.isatty() else PlainProgress(meter, stream)


class Best:
    """Which evaluation is the best so far, those before a resumed run's start included."""

    def __init__(self, start: RunStart) -> None:
        self._selection = Selection(start.metric or "", start.greater_is_better)
        for row in start.history:
            self.is_at(row)

    @property
    def step(self) -> int | None:
        """After which step it was made."""
        return self._selection.best_step

    def is_at(self, row: Row) -> bool:
        """Takes in a row of the history; whether it is the best evaluation so far."""
        figures = {name.removeprefix(EVAL): value for name, value in row.items() if name.startswith(EVAL)}
        return bool(figures) and self._selection.improves(figures, row["step"])


class PlainProgress(Callback):
    """One line every few seconds, one per evaluation, in which the best so far is marked.

    `step 120/900  epoch 0.40/3  loss 0.4312  3,410 tokens/s  1,204 MB  0:42 left`

    The memory is what the report tells the peak of, as it is now; see `MemoryMeter`.
    """

    def __init__(self, meter: MemoryMeter, stream: IO[str], every_seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._meter, self._stream, self._every = meter, stream, every_seconds
        self._said = 0.0

    def on_start(self, start: RunStart) -> None:
        self._start, self._began, self._best = start, time.monotonic(), Best(start)
        self._said = self._began
        if start.done:
            self._say(f"resumed after step {start.done}/{start.total}")

    def on_step(self, row: Row) -> None:
        now = time.monotonic()
        if now - self._said >= self._every or row["step"] == self._start.total:
            self._said = now
            self._say(step_line(row, self._start, self._meter, now - self._began))

    def on_evaluate(self, row: Row) -> None:
        best = BEST_SO_FAR if self._best.is_at(row) else ""
        self._say(f"step {row['step']}/{self._start.total}  evaluation: {figures_line(row)}{best}")

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class ProgressBar(Callback):
    """A rich bar with the time left, loss, speed and memory; above it the last epochs, the best one marked.

    At the end the bar is gone, and the table of all epochs and a line on the whole run are left.
    """

    def __init__(self, meter: MemoryMeter, stream: IO[str]) -> None:
        self._meter, self._stream = meter, stream
        self._live: Any = None

    def on_start(self, start: RunStart) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._start, self._rows, self._best = start, list(start.history), Best(start)
        self._console = Console(file=self._stream, highlight=False)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TimeRemainingColumn(), TextColumn("{task.description}"), console=self._console, expand=True,
        )  # fmt: skip
        epoch = f"{epoch_of(start.history[-1]) if start.history else 1}/{start.epochs}"
        self._line = self._bar.add_task("", total=start.total, completed=start.done, epoch=epoch)
        self._table: Any = None
        self._live = Live(get_renderable=self._shown, console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def on_step(self, row: Row) -> None:
        self._rows.append(row)
        words = f"loss {row['loss']:.4f}  {row['tokens_per_second']:,.0f} tokens/s  {self._meter.now_megabytes:,.0f} MB"
        epoch = f"{epoch_of(row)}/{self._start.epochs}"
        self._bar.update(self._line, completed=row["step"], description=words, epoch=epoch)
        if row["epoch"] % 1 == 0:
            self._table = self._epochs(self._best.step, EPOCHS_SHOWN)

    def on_evaluate(self, row: Row) -> None:
        self._rows.append(row)
        self._best.is_at(row)
        self._table = self._epochs(self._best.step, EPOCHS_SHOWN)

    def on_end(self, report: TrainReport | None) -> None:
        if self._live is None:
            return
        self._live.stop()
        if report is None:
            done = self._rows[-1]["step"] if self._rows else 0
            self._console.print(self._epochs(self._best.step, len(self._rows)))
            self._console.print(f"broke off after step {done}/{self._start.total}", style="bold red")
        else:
            self._rows = report.history
            self._console.print(self._epochs(report.best_step if report.best else None, len(self._rows)))
            self._console.print(report.summary(), markup=False, soft_wrap=True)

    def _shown(self) -> Any:
        """The last epochs that have ended above the bar."""
        from rich.console import Group

        return Group(*([self._table] if self._table is not None else []), self._bar)

    def _epochs(self, best_step: int | None, most: int) -> Any:
        """At most so many epochs as a table; the best one is always among them."""
        from rich.table import Table

        header, rows = epoch_table(self._rows, self._start.metric, best_step)
        left_out = [row for row in rows[:-most] if row[-1] != "best"]
        made = Table(box=None, padding=(0, 2, 0, 0))
        for index, name in enumerate(header):
            made.add_column(name, justify="right" if index else "left", header_style="dim")
        for row in rows:
            if row not in left_out:
                made.add_row(*map(cell, row), style="bold green" if row[-1] == "best" else None)
        return made


def step_line(row: Row, start: RunStart, meter: MemoryMeter, seconds: float) -> str:
    """The plain line of one step; `seconds` since the run began or was resumed."""
    left = seconds / max(row["step"] - start.done, 1) * (start.total - row["step"])
    return (
        f"step {row['step']}/{start.total}  epoch {row['epoch']:.2f}/{start.epochs}  loss {row['loss']:.4f}  "
        f"{row['tokens_per_second']:,.0f} tokens/s  {meter.now_megabytes:,.0f} MB  {clock(left)} left"
    )


_DETAILS = ("precision", "recall", "matthews_correlation", "f1_weighted")


def figures_line(row: Row) -> str:
    """The figures of an evaluation's row in one line; the finer ones are in the history.

    Examples:
        >>> figures_line({"step": 3, "eval_accuracy": 0.5, "eval_recall_macro": 0.5, "eval_loss": 0.25})
        'accuracy 0.5000  loss 0.2500'
    """
    pairs = ((name.removeprefix(EVAL), value) for name, value in row.items() if name.startswith(EVAL))
    pairs = ((name, value) for name, value in pairs if not name.startswith(_DETAILS))
    return "  ".join(f"{name} {value:.4f}" for name, value in pairs)


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`.

    Examples:
        >>> clock(75), clock(3700)
        ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
