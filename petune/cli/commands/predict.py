"""`petune predict`: answers beside the rows of a file, however long it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The adapter.")],
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="A csv, tsv or jsonl file; - is stdin.")],
    out: Annotated[str, typer.Option(help="A csv, tsv or jsonl file; - is stdout.")] = "-",
    model: Annotated[str | None, typer.Option(help="The backbone, in place of the recorded one.")] = None,
    form: Annotated[str | None, typer.Option("--format", metavar="csv|tsv|jsonl", help="Of the rows.")] = None,
    column: Annotated[str, typer.Option(help="The column of the answers.")] = "predicted",
    every: Annotated[bool, typer.Option("--probabilities", help="Of every label, option or span as well.")] = False,
    batch_size: Annotated[int, typer.Option(help="Rows per forward.", min=1)] = 32,
    chunk: Annotated[int, typer.Option(help="Rows that are in memory at once.", min=1)] = 1024,
) -> None:
    """Write the rows with their answers and probabilities beside them.

    The rows flow through: a file of any size takes the memory of a chunk.
    Every column of a row is kept.
    """
    from petune import Tuner
    from petune.cli import streams
    from petune.cli.answering import Answering

    reads = streams.form_of(rows, form)
    writes = reads if out == streams.STANDARD else streams.form_of(out, None)
    streams.need_other(rows, out)
    source = "stdin" if rows == streams.STANDARD else Path(rows).name
    tuner = Tuner.load(folder, model)
    answering = Answering(tuner, column, every=every, batch_size=batch_size, source=source)
    with streams.written(out, writes) as sink:
        for some in streams.chunks(rows, reads, chunk):
            sink.write(answering.columns_of(some))
