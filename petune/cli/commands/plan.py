"""`petune plan`: what a fit would do and take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def plan(
    ctx: typer.Context,
    train: Annotated[str | None, typer.Argument(metavar="TRAIN", help="The training rows, if there are any.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A file of settings; options win.")] = None,
    model: Annotated[str | None, typer.Option(help="The frozen backbone: a folder or a hub id.")] = None,
    method: Annotated[str | None, typer.Option(help="How it learns; its knobs are --method.KNOB.")] = None,
    task: Annotated[str | None, typer.Option(help="What it learns; its knobs are --task.KNOB.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="In place of the backbone's own.")] = None,
    quantize: Annotated[str | None, typer.Option(metavar="4bit|8bit", help="Pack the frozen weights.")] = None,
    untimed: Annotated[bool, typer.Option("--untimed", help="Take no steps, so tell no seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Tell what a fit would do and take: sites, parameters, memory, time.

    It takes the same options as fit. Nothing is trained or written.
    """
    import dataclasses
    import json

    from petune.cli.knob_options import given_by
    from petune.cli.recipe import recipe_of

    given = {"train": train, "model": model, "method": method, "task": task,
             "tokenizer": tokenizer, "quantize": quantize}  # fmt: skip
    recipe = recipe_of(config, given, given_by(ctx))
    recipe.need("model")
    found = recipe.tuner().plan(recipe.settings["train"], recipe.config, timed=not untimed)
    if as_json:
        more = {"seconds": found.seconds, "trainable_share": found.trainable_share}
        typer.echo(json.dumps({**dataclasses.asdict(found), **more}))
    else:
        typer.echo(repr(found))


def knobs(words: Sequence[str]) -> Any:
    """The knobs that can be turned here."""
    from petune.cli.recipe import knobs_by

    return knobs_by(words)
