"""`report.html`: everything about a run in one file that needs no network and holds no script."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from petune.config import TrainConfig
from petune.errors import ConfigError
from petune.lookup import name_of
from petune.model import quantizing
from petune.report.confusion import confusion
from petune.report.extra import need
from petune.report.hard_rows import CONFIDENT, hard_rows, suspects
from petune.report.looking import Looked, chosen, look
from petune.report.rank_map import rank_map
from petune.storage import manifest, snippets
from petune.storage.atomic import write_file
from petune.storage.packing import knobs_of, pack
from petune.training.fitting import Given
from petune.training.identity import plain
from petune.training.plan import duration
from petune.training.report import TrainReport
from petune.training.tables import cell
from petune.training.using import Work

MOST_CLASSES = 60
"""Rows of the tables of labels and of classes."""
MOST_NOTICES = 30
HIDDEN = ("type", "output_dir", "cache_dir", "labels", "ranks")
"""Knobs that are shown elsewhere, or are folders of one machine."""


@dataclass(frozen=True)
class Told:
    """What a tuner knows of itself.

    Args:
        report: of the last fit; None for an adapter that was loaded.
        history: its rows, which are saved with the adapter.
        given: what the last fit was given; None for an adapter that was loaded.
    """

    work: Work
    report: TrainReport | None
    history: Sequence[Mapping[str, Any]]
    given: Given | None

    @property
    def best(self) -> tuple[str | None, int | None]:
        """The figure that chose the best evaluation, and after which step that was made."""
        if self.report is not None:
            return self.report.metric, self.report.best_step if self.report.best else None
        evaluated = any(name.startswith("eval_") for row in self.history for name in row)
        return (self.work.adapter.task.headline() if evaluated else None), None


def write_report(path: str | Path, told: Told, data: Any = None) -> Path:
    """Writes the report; a file that is there is replaced whole.

    Args:
        data: labelled rows to look at; None: those of the fit.

    Raises:
        ConfigError: the extra `report` is not installed, or `path` is a folder.
        DataError: rows that cannot be read.
    """
    need("A report")
    path = Path(path)
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder.", expected="A file to write.", fix=f"Pass {str(path / 'report.html')!r}."
        )
    text = page(told, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text.encode("utf-8", "replace"))
    return path


def page(told: Told, data: Any = None) -> str:
    """The report as HTML; sections for which there is nothing to show are left out."""
    import jinja2

    choice = chosen(told.work, told.given, data)
    looked = None if choice is None else look(told.work, choice)
    # All that comes from users is data: escaped, and no template is ever made of it.
    template = resources.files("petune.report").joinpath("page.html.j2").read_text("utf-8")
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    engine.filters["cell"] = cell
    return engine.from_string(template).render(
        **_about(told), **_fit(told), **_pictures(told, looked), **_rows(told, looked), **_settings(told)
    )


def _about(told: Told) -> dict[str, Any]:
    """Name, task, method, backbone, and how to load it."""
    adapter = told.work.adapter
    stored = pack(adapter, None)
    name = snippets.hub_id(stored) or stored.manifest["backbone"]["model_type"]
    return {
        "name": adapter.name,
        "task": name_of("tasks", adapter.task),
        "method": adapter.facts.get("trained_as") or name_of("methods", adapter.method),
        "backbone": name,
        "written": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "snippets": snippets.snippets(stored, f"adapters/{adapter.name}"),
        "versions": {"petune": manifest.petune_version(), **manifest.versions()},
        "machine": f"{platform.system()} {platform.machine()}, {adapter.shell.backbone.device}",
    }


def _fit(told: Told) -> dict[str, Any]:
    """Cost, data and notices of the fit, and its tiles."""
    report = told.report
    facts = told.work.adapter.facts.get("data") or {}
    if report is None:
        return {"tiles": [], "cost": [], "notices": [], "data": {"rows": facts["rows"]} if "rows" in facts else {}}
    frozen = quantizing.count(told.work.adapter.shell.backbone.model)
    own = told.work.adapter.method.residence == "private"
    share = 1.0 if own else report.trainable_parameters / (report.trainable_parameters + frozen)
    best = [(f"best {report.metric}", cell(report.best[report.metric]))] if report.metric in report.best else []
    cost = [
        ("time", duration(report.seconds)),
        ("trainable", f"{report.trainable_parameters:,} ({share:.2%})"),
        ("real tokens", f"{report.real_tokens:,}"),
        ("real tokens per second", f"{report.tokens_per_second:,.0f}"),
        ("padding", f"{report.padding_share:.1%}"),
        ("peak memory", f"{report.peak_memory_megabytes:,.0f} MB ({report.memory_measured})"),
        ("steps", f"{report.steps:,}" + (", stopped early" if report.stopped_early else "")),
    ]
    tiles = [*best, cost[0], ("trainable share", f"{share:.2%}"), ("tokens per second", cost[3][1]),
             ("peak memory", f"{report.peak_memory_megabytes:,.0f} MB")]  # fmt: skip
    return {"tiles": tiles, "cost": cost, "notices": report.notices[:MOST_NOTICES], "data": report.data or facts}


def _pictures(told: Told, looked: Looked | None) -> dict[str, Any]:
    """Curves, lengths and, for numbers, the scatter, as inline SVG."""
    from petune.report import drawing

    panels = drawing.panels(told.history, *told.best)
    histogram = (told.report.data if told.report else {}).get("histogram")
    of_lengths = [drawing.lengths(histogram["edges"], histogram["counts"])] if histogram else []
    numbers = looked is not None and bool(looked.given) and isinstance(looked.given[0], float | int)
    dots = [drawing.scatter(looked.given, looked.answered)] if looked is not None and numbers else []

    def drawn(made: Sequence[Any], group: str) -> list[tuple[str, str]]:
        return [(panel.title, drawing.svg_of(panel, f"{group} {index}")) for index, panel in enumerate(made)]

    return {"curves": drawn(panels, "curve"), "lengths": drawn(of_lengths, "length"), "scatter": drawn(dots, "dots")}


def _rows(told: Told, looked: Looked | None) -> dict[str, Any]:
    """What the rows say: figures, classes, confusions, the hardest rows, and where the ranks are."""
    adapter = told.work.adapter
    ranks = rank_map(adapter)
    if looked is None:
        return {"looked": None, "ranks": ranks}
    task = adapter.task
    classes = looked.figures.per_class
    return {
        "looked": {
            "words": looked.choice.words,
            "count": len(looked.rows),
            "notices": looked.choice.notices,
            "figures": dict(looked.figures),
            "classes": sorted(classes, key=_f1)[:MOST_CLASSES] if len(classes) > MOST_CLASSES else classes,
            "all_classes": len(classes),
            "confusion": confusion(looked.given, looked.answered, task.labels),
            "hard": hard_rows(task, looked) if len(set(looked.losses)) > 1 else [],
            "suspects": suspects(task, looked),
            "confident": CONFIDENT,
            "writes": task.generates,
        },
        "ranks": ranks,
    }


def _f1(row: Mapping[str, Any]) -> float:
    return float(row.get("f1", 0.0))


def _settings(told: Told) -> dict[str, Any]:
    """(title, knobs that are not the default, knobs that are) of method, task and fitting."""
    adapter = told.work.adapter
    config = told.given.config if told.given else None
    trained = adapter.facts.get("training") or {}
    fitting = plain(config) if config is not None else {**trained, "seed": adapter.facts.get("seed")}
    blocks = [
        ("Method", knobs_of(adapter.method), _defaults(type(adapter.method))),
        ("Task", knobs_of(adapter.task), _defaults(type(adapter.task))),
        ("Fitting", fitting, plain(TrainConfig())),
    ]
    made = []
    for title, known, usual in blocks:
        shown = [(name, value) for name, value in known.items() if name not in HIDDEN and value not in (None, [], {})]
        own = [(name, _short(value)) for name, value in shown if value != usual.get(name)]
        made.append((title, own, [(name, _short(value)) for name, value in shown if value == usual.get(name)]))
    return {"settings": made}


def _defaults(kind: Callable[[], Any]) -> dict[str, Any]:
    try:
        return knobs_of(kind())
    except (TypeError, ConfigError):  # a method or task that cannot do without a knob
        return {}


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key}: {item}" for key, item in value.items()]
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 160 else f"{text[:159]}…"
