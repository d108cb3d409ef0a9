"""`petune init`: a file of settings to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; - is stdout.")] = "-",
    train: Annotated[str, typer.Option(help="The training rows.")] = "train.csv",
    model: Annotated[str, typer.Option(help="The frozen backbone.")] = "path/to/backbone",
    out: Annotated[str, typer.Option(help="The folder of the adapter.")] = "runs/first",
    method: Annotated[str, typer.Option(help="Whose knobs are written.")] = "lora",
    task: Annotated[str, typer.Option(help="Whose knobs are written.")] = "sequence-classification",
    schema: Annotated[bool, typer.Option("--schema", help="Write the JSON Schema of such files instead.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write a file with every knob, its default, and what it is for.

    petune fit -c FILE takes it. With --schema the JSON Schema is written,
    by which an editor completes and checks such files.
    """
    import json

    from petune.cli import saving
    from petune.cli.recipe import recipe_of
    from petune.cli.usage import UsageError

    if schema:
        from petune.cli.schema import json_schema

        text = json.dumps(json_schema(), indent=1) + "\n"
    else:
        given = {"train": train, "model": model, "out": out, "method": method, "task": task}
        text = saving.commented(recipe_of(None, given, {}).settings)
    if path == "-":
        typer.echo(text, nl=False)
        return
    if Path(path).exists() and not force:
        raise UsageError(f"{path} is there already.", fix="Give another name, or --force.")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    typer.echo(f"Written {path}", err=True)
