"""`petune fit`: train an adapter and save it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def fit(
    ctx: typer.Context,
    train: Annotated[str | None, typer.Argument(metavar="TRAIN", help="The training rows.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A file of settings; options win.")] = None,
    model: Annotated[str | None, typer.Option(help="The frozen backbone: a folder or a hub id.")] = None,
    method: Annotated[str | None, typer.Option(help="How it learns; its knobs are --method.KNOB.")] = None,
    task: Annotated[str | None, typer.Option(help="What it learns; its knobs are --task.KNOB.")] = None,
    out: Annotated[str | None, typer.Option(help="The folder in which the adapter is saved.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="Rows to evaluate on, or the share to hold out.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the adapter; otherwise the last part of --out.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="In place of the backbone's own.")] = None,
    quantize: Annotated[str | None, typer.Option(metavar="4bit|8bit", help="Pack the frozen weights.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes to launch on this machine.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="auto|FOLDER", help="Go on from a checkpoint.")] = None,
    continue_from: Annotated[str | None, typer.Option(metavar="FOLDER", help="Start from a saved adapter.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the run as one HTML page too.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train an adapter and save it.

    Every knob of fitting, of the method and of the task is an option;
    name a method or a task before --help to see its knobs:
    petune fit --method adalora --help.
    The settings that were used are saved beside the adapter, in run.yaml.
    """
    from petune.cli import saving
    from petune.cli.knob_options import given_by
    from petune.cli.recipe import recipe_of
    from petune.cli.words import share_or_path
    from petune.report.extra import need

    given = {
        "train": train, "model": model, "method": method, "task": task, "out": out, "name": name,
        "eval_data": share_or_path(eval_data), "tokenizer": tokenizer, "quantize": quantize, "processes": processes,
    }  # fmt: skip
    recipe = recipe_of(config, given, given_by(ctx))
    if dry_run:
        typer.echo(saving.settings_text(recipe), nl=False)
        return
    recipe.need("train", "model", "out")
    recipe.need_place()
    if report is not None:
        need("--report")  # told now, and not after the run
    tuner = recipe.tuner()
    settings = recipe.settings
    tuner.fit(
        settings["train"], settings["eval_data"], recipe.config,
        resume=resume, continue_from=continue_from, processes=settings["processes"],
    )  # fmt: skip
    folder = saving.save(tuner, recipe)
    if report is not None:
        tuner.write_report(report)
    typer.echo(saving.outcome(tuner, folder, as_json=as_json, shown=recipe.config.progress != "off"))


def knobs(words: Sequence[str]) -> Any:
    """The knobs that can be turned here."""
    from petune.cli.recipe import knobs_by

    return knobs_by(words)
