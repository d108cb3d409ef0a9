"""`petune demo`: every method on made-up rows, within a minute and without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    keep: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Leave backbone and rows there.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the rows.", min=1)] = 10,
) -> None:
    """Fit every method on synthetic rows: shows that the installation works.

    The encoder is tiny and has random weights, the rows are made of key
    words: the figures say nothing about real texts. make demo, in a
    checkout, does the same on a real encoder and real data.
    """
    import tempfile

    from petune.cli.demonstration import demonstrate, make_parts

    with tempfile.TemporaryDirectory() as place:
        folder = make_parts(keep or Path(place))
        demonstrate(folder, epochs, typer.echo, lambda line: typer.echo(line, err=True))
