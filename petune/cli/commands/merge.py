"""`petune merge`: an adapter written into its backbone, as a plain transformers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The adapter.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the merged model.")],
    model: Annotated[str | None, typer.Option(help="The backbone, in place of the recorded one.")] = None,
) -> None:
    """Write an adapter into its backbone: a plain transformers folder.

    Labels and tokenizer are in it. The logits before and after are compared;
    where they differ too much, nothing is written.
    """
    from petune import Tuner
    from petune.errors import ConfigError
    from petune.model.backbone import quiet

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already.", expected="A new folder, or an empty one.")
    tuner = Tuner.load(folder, model)
    merged = tuner.merge()
    with quiet():
        merged.save_pretrained(out)
        if tuner.tokenizer is not None:
            tuner.tokenizer.save_pretrained(out)
    typer.echo(f"{tuner.merge_receipt}\nSaved {out}")
