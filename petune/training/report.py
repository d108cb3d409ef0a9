"""What is handed back: the figures of an evaluation, and the story of a training run."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from petune.storage.strict_json import nulled
from petune.training.tables import cell, html_table, text_table

EVAL = "eval_"
"""The prefix of an evaluation's figures in the rows of the history."""


class EvalReport(Mapping[str, float]):
    """The figures of one evaluation: a mapping of floats that prints with the table of its classes.

    Args:
        figures: name -> value, `loss` included.
        per_class: one mapping per class (`label`, `precision`, ..., `support`); empty where there are no classes.
        rows: how many rows were evaluated.

    Examples:
        >>> report = EvalReport({"accuracy": 0.5}, [{"label": "no", "f1": 0.5, "support": 2}], rows=4)
        >>> report["accuracy"]
        0.5
        >>> print(report)
        accuracy 0.5000  (4 rows)
        <BLANKLINE>
        label      f1  support
        no     0.5000        2
    """

    def __init__(
        self, figures: Mapping[str, float], per_class: Sequence[Mapping[str, Any]] = (), rows: int = 0
    ) -> None:
        self._figures = {name: float(value) for name, value in figures.items()}
        self.per_class = [dict(row) for row in per_class]
        self.rows = rows

    def __getitem__(self, name: str) -> float:
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def _line(self) -> str:
        """All figures, in as many lines as it takes."""
        parts = [f"{name} {cell(value)}" for name, value in self._figures.items()] + [f"({self.rows:,} rows)"]
        # Words with no-break spaces, so that a name is never parted from its number.
        wrapped = textwrap.fill("  ".join(part.replace(" ", "\0") for part in parts), 100, break_on_hyphens=False)
        return wrapped.replace("\0", " ")

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        header = list(self.per_class[0])
        return header, [[row.get(name) for name in header] for row in self.per_class]

    def __str__(self) -> str:
        return f"{self._line()}\n\n{text_table(*self._table())}" if self.per_class else self._line()

    def __repr__(self) -> str:
        return f"EvalReport({dict(self)})"

    def _repr_html_(self) -> str:
        table = html_table(*self._table()) if self.per_class else ""
        return f"<p>{escape(self._line())}</p>{table}"

    def to_json(self) -> str:
        """The figures and the rows of the table as JSON; a figure that is not finite is null."""
        return json.dumps(nulled({"figures": self._figures, "per_class": self.per_class, "rows": self.rows}))


@dataclass
class TrainReport:
    """How a run went. It prints one line per epoch, the best one marked.

    Attributes:
        history: one row per optimizer step (`step`, `epoch`, `loss`, `learning_rate`, `tokens_per_second`, `seconds`)
            and one per evaluation (`step`, `epoch`, `seconds`, and each figure as `eval_<name>`).
        best: the figures of the best evaluation; empty without eval data.
        best_step: the optimizer step after which it was made.
        metric: the figure by which the best was chosen.
        steps: optimizer steps done.
        seconds: the whole run, evaluations and checkpoints included.
        real_tokens: pieces that are no padding, over all processes.
        tokens_per_second: real tokens per second of training proper.
        padding_share: the share of all positions that only padded, on this process.
        peak_memory_megabytes: the most that weights, gradients, optimizer state and activations took; the plan
            estimates the same figure.
        memory_measured: how, in words.
        trainable_parameters: numbers trained, head included.
        stopped_early: whether `patience` ended the run.
        class_weights: label -> weight, if weights were used.
        notices: what should be known about the run.
        data: what was trained on, in figures: rows, labels, lengths; see `petune.training.data_figures`.
    """

    history: list[dict[str, Any]]
    best: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    metric: str | None = None
    steps: int = 0
    seconds: float = 0.0
    real_tokens: int = 0
    tokens_per_second: float = 0.0
    padding_share: float = 0.0
    peak_memory_megabytes: float = 0.0
    memory_measured: str = ""
    trainable_parameters: int = 0
    stopped_early: bool = False
    class_weights: dict[str, float] | None = None
    notices: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self, path: str | Path | None = None) -> str:
        """The whole report as JSON, also written to `path` when one is given; a figure that is not finite is null."""
        text = json.dumps(nulled(dataclasses.asdict(self)), indent=1)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        return epoch_table(self.history, self.metric, self.best_step if self.best else None)

    def summary(self) -> str:
        """Steps, time, size, speed and memory in one line."""
        early = ", stopped early" if self.stopped_early else ""
        return (
            f"{self.steps:,} steps in {self.seconds:.1f} s{early}; {self.trainable_parameters:,} trainable parameters; "
            f"{self.tokens_per_second:,.0f} real tokens/s, {self.padding_share:.1%} padding; "
            f"peak memory {self.peak_memory_megabytes:,.0f} MB ({self.memory_measured})"
        )

    def __str__(self) -> str:
        return "\n".join([text_table(*self._table()), self.summary(), *self.notices])

    def __repr__(self) -> str:
        best = f", best {self.metric} {cell(self.best[self.metric])}" if self.metric in self.best else ""
        return f"TrainReport({self.steps} steps{best})"

    def _repr_html_(self) -> str:
        told = "".join(f"<li>{escape(notice)}</li>" for notice in self.notices)
        return html_table(*self._table()) + f"<p>{escape(self.summary())}</p>" + (f"<ul>{told}</ul>" if told else "")


def epoch_table(
    history: Sequence[Mapping[str, Any]], metric: str | None, best_step: int | None
) -> tuple[list[str], list[list[Any]]]:
    """The header, and one row per epoch: the mean loss of its steps, the chosen figure and the loss of its evaluation.

    Args:
        history: as in `TrainReport`.
        best_step: of the evaluation whose row ends with `best`.

    Examples:
        >>> step = {"step": 1, "epoch": 1.0, "loss": 0.5, "learning_rate": 0.1}
        >>> epoch_table([step, {"step": 1, "epoch": 1.0, "eval_f1": 0.75}], "f1", 1)
        (['epoch', 'step', 'loss', 'rate', 'eval_f1', ''], [['1', 1, 0.5, 0.1, 0.75, 'best']])
    """
    epochs: dict[int, dict[str, Any]] = {}
    for row in history:
        last = epochs.setdefault(epoch_of(row), {"losses": [], "figures": {}, "step": 0})
        last["step"] = row["step"]
        if "loss" in row:
            last["losses"].append(row["loss"])
            last["rate"] = row["learning_rate"]
        else:
            last["figures"] = {name: value for name, value in row.items() if name.startswith(EVAL)}
    there = {name for row in epochs.values() for name in row["figures"]}
    names = [name for name in dict.fromkeys((f"{EVAL}{metric}", f"{EVAL}loss")) if name in there]
    lines = [
        [str(epoch), row["step"], sum(row["losses"]) / max(len(row["losses"]), 1), row.get("rate")]
        + [row["figures"].get(name) for name in names]
        + (["best" if best_step is not None and row["step"] == best_step else ""] if names else [])
        for epoch, row in sorted(epochs.items())
    ]
    return ["epoch", "step", "loss", "rate", *names, *([""] if names else [])], lines


def epoch_of(row: Mapping[str, Any]) -> int:
    """The epoch, counted from 1, in which a row of the history falls; `epoch` counts finished ones."""
    return max(1, -int(-row["epoch"] // 1))
