"""`petune inspect`: what is in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An adapter, a checkpoint, a run, a model.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor with its shape.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Tell what is in a folder: facts, knobs, figures, sizes.

    Nothing in it is executed. petune doctor tells what is wrong with it.
    """
    from petune.cli.inspecting import inspected, text_of

    found = inspected(folder, tensors=tensors)
    typer.echo(json.dumps(found, indent=1) if as_json else text_of(found))
