"""How far the run is: a bar on a terminal, one plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

from petune.training.callbacks import Callback, Row, RunStart
from petune.training.memory import MemoryMeter
from petune.training.report import EVAL, TrainReport

SECONDS_BETWEEN_LINES = 5.0


def say(lines: Sequence[str]) -> None:
    """Prints lines, each once: only on the main process, before Accelerate knows which one that is."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line, file=sys.stderr)


def make_progress(meter: MemoryMeter, stream: IO[str] | None = None) -> Callback:
    """A bar where a person watches, else plain lines; both go to the standard error."""
    stream = stream or sys.stderr
    return ProgressBar(meter, stream) if stream.isatty() else PlainProgress(meter, stream)


class PlainProgress(Callback):
    """One line every few seconds, one per evaluation.

    `step 120/900  epoch 0.40/3  loss 0.4312  3,410 tokens/s  1,204 MB  0:42 left`

    The memory is what the report tells the peak of, as it is now; see `MemoryMeter`.
    """

    def __init__(self, meter: MemoryMeter, stream: IO[str], every_seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._meter, self._stream, self._every = meter, stream, every_seconds
        self._said = 0.0

    def on_start(self, start: RunStart) -> None:
        self._start, self._began = start, time.monotonic()
        self._said = self._began
        if start.done:
            self._say(f"resumed after step {start.done}/{start.total}")

    def on_step(self, row: Row) -> None:
        now = time.monotonic()
        if now - self._said >= self._every or row["step"] == self._start.total:
            self._said = now
            self._say(step_line(row, self._start, self._meter, now - self._began))

    def on_evaluate(self, row: Row) -> None:
        self._say(f"step {row['step']}/{self._start.total}  evaluation: {figures_line(row)}")

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class ProgressBar(Callback):
    """A rich bar with the time left; each evaluation stays above it as a line."""

    def __init__(self, meter: MemoryMeter, stream: IO[str]) -> None:
        self._meter, self._stream = meter, stream
        self._bar: Any = None

    def on_start(self, start: RunStart) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(file=self._stream), refresh_per_second=4)
        self._line = self._bar.add_task("", total=start.total, completed=start.done)
        self._bar.start()

    def on_step(self, row: Row) -> None:
        words = f"loss {row['loss']:.4f}  {row['tokens_per_second']:,.0f} tokens/s  {self._meter.now_megabytes:,.0f} MB"
        self._bar.update(self._line, completed=row["step"], description=words)

    def on_evaluate(self, row: Row) -> None:
        self._bar.console.print(f"epoch {row['epoch']:g}: {figures_line(row)}", highlight=False)

    def on_end(self, report: TrainReport | None) -> None:
        if self._bar is not None:
            self._bar.stop()


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

    Example:
        >>> figures_line({"step": 3, "eval_accuracy": 0.5, "eval_recall_macro": 0.5, "eval_loss": 0.25})
        'accuracy 0.5000  loss 0.2500'
    """
    pairs = ((name.removeprefix(EVAL), value) for name, value in row.items() if name.startswith(EVAL))
    pairs = ((name, value) for name, value in pairs if not name.startswith(_DETAILS))
    return "  ".join(f"{name} {value:.4f}" for name, value in pairs)


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`.

    Example:
        >>> clock(75), clock(3700)
        ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
