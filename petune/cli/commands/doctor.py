"""`petune doctor`: what is in adapter folders, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Adapters, checkpoints, runs, stores.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object per folder.")] = False,
) -> None:
    """Tell what is in adapter folders and what is wrong with them.

    Adapters by petune, peft or AdapterHub, checkpoints, the folder of a run,
    a store of many adapters. Nothing in them is executed or changed.
    The exit code is 1 when there is an error.
    """
    from petune.doctor import diagnose

    found = [diagnose(folder) for folder in folders]
    if as_json:
        typer.echo(json.dumps([one.to_dict() for one in found], indent=1))
    else:
        typer.echo("\n\n".join(map(str, found)))
    if not all(one.ok for one in found):
        raise typer.Exit(1)
