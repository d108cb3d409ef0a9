"""`petune evaluate`: the figures of an adapter on labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The adapter.")],
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="Labelled rows.")],
    model: Annotated[str | None, typer.Option(help="The backbone, in place of the recorded one.")] = None,
    metrics: Annotated[str, typer.Option(metavar="NAME,...", help="Further metrics.")] = "",
    batch_size: Annotated[int, typer.Option(help="Rows per forward.", min=1)] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Print the figures of an adapter on labelled rows."""
    from petune import Tuner

    tuner = Tuner.load(folder, model)
    wanted = [name.strip() for name in metrics.split(",") if name.strip()]
    report = tuner.evaluate(rows, metrics=wanted, batch_size=batch_size)
    typer.echo(report.to_json() if as_json else str(report))
