"""`petune convert`: an adapter by another library, as petune's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An adapter by peft or by AdapterHub.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="petune's folder.")],
    model: Annotated[str | None, typer.Option(help="The backbone, in place of the one that the folder names.")] = None,
    labels: Annotated[str, typer.Option(metavar="NAME,...", help="The labels, in class order.")] = "",
    name: Annotated[str | None, typer.Option(help="Of the adapter.")] = None,
) -> None:
    """Take an adapter over from peft or AdapterHub.

    The folder then has its labels, its tokenizer, the fingerprint of its
    backbone and a probe, and loads without any argument.
    """
    from petune.converting import convert as take_over

    wanted = [label.strip() for label in labels.split(",") if label.strip()]
    tuner = take_over(folder, out, backbone=model, labels=wanted, name=name)
    typer.echo(f"{tuner.describe()}\nSaved {out}")
