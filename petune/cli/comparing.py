"""Methods side by side: the same rows, the same seeds, one fit after the other."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from petune.cli import yaml_file
from petune.cli.knob_list import Knob, knobs_of
from petune.cli.knob_options import Given, named
from petune.cli.recipe import Recipe, chosen_by, recipe_of
from petune.cli.sections import DEFAULTS, OWN, own_knobs, section_knobs
from petune.config import TrainConfig
from petune.lookup import names

RATE = "learning_rate"
HELD_OUT = 0.2
"""Of the training rows, where no evaluation data are given."""


def methods_of(words: str) -> list[str]:
    """The names in a list separated by commas, each once.

    Examples:
        >>> methods_of("full, lora,lora")
        ['full', 'lora']
    """
    return list(dict.fromkeys(name for part in words.split(",") if (name := part.strip())))


def knobs_by(words: Sequence[str]) -> list[Knob]:
    """The knobs of a comparison: those of fitting and of the task, and `--METHOD.KNOB` for each named method."""
    file = named(words, "-c", "--config")
    chosen = chosen_by(yaml_file.read(file)[0]) if file is not None and Path(file).is_file() else {}
    task = named(words, "--task") or chosen.get("task")
    task = task if task in names("tasks") or named(words, "--task") else DEFAULTS["task"]
    rate = next(knob for knob in knobs_of(TrainConfig) if knob.path == (RATE,))
    found = [*own_knobs()[len(OWN) :], *section_knobs("task", task)]
    for method in methods_of(named(words, "--methods") or ""):
        own = [*section_knobs("method", method), rate]
        found += [knob._replace(path=(method, knob.path[-1]), room=f"the method {method}") for knob in own]
    return found


def arm_of(method: str, file: Path | None, given: dict[str, Any], knobs: Given) -> Recipe:
    """The recipe of one method: what is said to all, and what `--METHOD.KNOB` says to it."""
    own: Given = {path: value for path, value in knobs.items() if len(path) == 1 or path[0] == "task"}
    for (section, knob), value in ((path, value) for path, value in knobs.items() if len(path) == 2):
        if section == method:
            own[(RATE,) if knob == RATE else ("method", knob)] = value
    return recipe_of(file, {**given, "method": method}, own)


def runs(arms: dict[str, Recipe], seeds: int, test: str | None, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Fits each method with each seed, in turn, and tells of each fit.

    Args:
        arms: method -> its recipe.
        seeds: how many: the recipe's own, and those that follow it.
        test: rows that are read once per fit; None: the best evaluation of the fit is told.
        say: is told what begins.
    """
    for method, arm in arms.items():
        for seed in range(arm.config.seed, arm.config.seed + seeds):
            say(f"{method}, seed {seed}")
            yield {"method": method, "seed": seed, **_run(arm, seed, test)}


def _run(arm: Recipe, seed: int, test: str | None) -> dict[str, Any]:
    out = arm.config.output_dir
    folder = None if out is None else Path(out) / f"{arm.settings['method']['name']}-{seed}"
    tuner = arm.tuner()
    share = HELD_OUT if arm.settings["eval_data"] is None else arm.settings["eval_data"]
    tuner.fit(arm.settings["train"], share, dataclasses.replace(arm.config, seed=seed, output_dir=folder))
    report = tuner.report
    figures = dict(report.best) if test is None else dict(tuner.evaluate(test))
    backbone = sum(parameter.numel() for parameter in tuner.backbone.model.parameters())
    trained = report.trainable_parameters
    return {
        "metric": report.metric,
        "figures": figures,
        "learning_rate": arm.config.learning_rate or tuner.method.learning_rate,
        "trainable_parameters": trained,
        "trainable_share": 1.0 if tuner.method.residence == "private" else trained / (backbone + trained),
        "seconds": report.seconds,
        "tokens_per_second": report.tokens_per_second,
        "peak_memory_megabytes": report.peak_memory_megabytes,
        "steps": report.steps,
    }


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each method: means over its seeds, and the spread (standard deviation of a sample) of its figure.

    Examples:
        >>> run = {"method": "lora", "metric": "f1", "learning_rate": 1e-3, "trainable_parameters": 9,
        ...        "trainable_share": 0.1, "seconds": 2.0, "tokens_per_second": 5.0, "peak_memory_megabytes": 1.0}
        >>> made = summary([{**run, "figures": {"f1": 0.5}}, {**run, "figures": {"f1": 0.7}}])
        >>> made[0]["mean"], round(made[0]["spread"], 4)
        (0.6, 0.1414)
    """
    made = []
    for method in dict.fromkeys(run["method"] for run in found):
        own = [run for run in found if run["method"] == method]
        scores = [run["figures"][run["metric"]] for run in own]
        means = ("trainable_share", "seconds", "tokens_per_second", "peak_memory_megabytes")
        made.append(
            {
                "method": method,
                "metric": own[0]["metric"],
                "mean": statistics.fmean(scores),
                "spread": statistics.stdev(scores) if len(scores) > 1 else None,
                "seeds": len(own),
                "learning_rate": own[0]["learning_rate"],
                "trainable_parameters": own[0]["trainable_parameters"],
                **{name: statistics.fmean(run[name] for run in own) for name in means},
            }
        )
    return made


def table(found: Sequence[dict[str, Any]]) -> str:
    """The summary as text, one line for each method."""
    from petune.training.tables import text_table

    lines = [
        [
            one["method"],
            f"{one['mean']:.4f}",
            "" if one["spread"] is None else f"{one['spread']:.4f}",
            f"{one['learning_rate']:g}",
            f"{one['trainable_parameters']:,}",
            f"{one['trainable_share']:.2%}",
            f"{one['seconds']:.1f}",
            f"{one['tokens_per_second']:,.0f}",
        ]
        for one in summary(found)
    ]
    metric = found[0]["metric"]
    return text_table(["method", metric, "spread", "rate", "trainable", "share", "seconds", "tokens/s"], lines)
