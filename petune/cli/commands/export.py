"""`petune export`: an adapter for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The adapter.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    target: Annotated[str, typer.Option(metavar="peft|vllm|gguf|adapters", help="Who is to read it.")] = "peft",
    drop_head: Annotated[bool, typer.Option("--drop-head", help="Leave the head out.")] = False,
) -> None:
    """Write an adapter for another program.

    peft: peft and transformers. vllm: vLLM. gguf: llama.cpp's converter.
    adapters: AdapterHub's library. The scale of a LoRA is folded into its
    factors, so that a reader that ignores a field is right all the same.
    What a program would read wrongly is refused.
    """
    from petune.storage.exporting import export as write

    made = write(folder, out, target=target, drop_head=drop_head)
    for notice in made.notices:
        typer.echo(notice, err=True)
    typer.echo(f"Saved {made.folder}")
