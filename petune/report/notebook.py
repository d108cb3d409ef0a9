"""What a notebook shows of a tuner, and its curves as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from petune.errors import AdapterError
from petune.lookup import name_of
from petune.methods.base import Method
from petune.model import quantizing
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.report.extra import need
from petune.tasks.base import Task
from petune.training.report import EVAL, TrainReport
from petune.training.tables import html_table


def tuner_html(
    backbone: Backbone, method: Method, task: Task, adapter: Adapter | None, report: TrainReport | None
) -> str:
    """Backbone, task, method and what was learnt as a table, and below it the epochs; all text is escaped."""
    weights = f"{quantizing.count(backbone.model) / 1e6:.1f} M weights"
    rows = [
        ["backbone", f"{backbone.source or type(backbone.model).__name__} ({backbone.model_type}, {weights})"],
        ["task", name_of("tasks", task)],
        ["method", name_of("methods", method)],
    ]
    if adapter is None:
        rows.append(["adapter", "nothing fitted yet"])
    else:
        own = sum(tensor.numel() for named in adapter.tensors().values() for tensor in named.values())
        head = sum(tensor.numel() for tensor in adapter.head().values())
        labels = ", ".join(adapter.task.labels[:8]) + (", ..." if len(adapter.task.labels) > 8 else "")
        sites = len(adapter.body.sites)
        rows.append(["adapter", f"{adapter.name}: {own:,} weights in {sites} sites, {head:,} in the head"])
        rows += [["labels", labels]] if labels else []
    return html_table(["tuner", ""], rows) + (report._repr_html_() if report is not None else "")


def plot(history: Sequence[Mapping[str, Any]], report: TrainReport | None, headline: str) -> Any:
    """The curves of a run beside each other, as a `matplotlib.figure.Figure` that a notebook shows.

    Args:
        history: rows as in `TrainReport.history`.
        headline: the figure to draw where there is no report that says which one chose the best.

    Raises:
        ConfigError: matplotlib is not installed.
        AdapterError: there is no history.
    """
    need("A plot", "matplotlib")
    from petune.report import drawing

    evaluated = any(name.startswith(EVAL) for row in history for name in row)
    metric = report.metric if report is not None else headline if evaluated else None
    made = drawing.panels(history, metric, report.best_step if report is not None and report.best else None)
    if not made:
        raise AdapterError("This tuner has no history yet, so there is nothing to draw.", fix="Call fit(train) first.")
    return drawing.figure_of(made)
