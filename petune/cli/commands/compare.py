"""`petune compare`: methods side by side on the same rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def compare(
    ctx: typer.Context,
    train: Annotated[str | None, typer.Argument(metavar="TRAIN", help="The training rows.")] = None,
    methods: Annotated[str, typer.Option(metavar="NAME,...", help="In turn; their knobs are --NAME.KNOB.")] = "lora",
    seeds: Annotated[int, typer.Option(help="Fits of each method.", min=1)] = 1,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A file of settings; options win.")] = None,
    model: Annotated[str | None, typer.Option(help="The frozen backbone: a folder or a hub id.")] = None,
    task: Annotated[str | None, typer.Option(help="What is learnt; its knobs are --task.KNOB.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="Rows to choose by, or the share to hold out.")] = None,
    test_data: Annotated[str | None, typer.Option(help="Rows that are read once per fit, for the figure.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="In place of the backbone's own.")] = None,
    quantize: Annotated[str | None, typer.Option(metavar="4bit|8bit", help="Pack the frozen weights.")] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for every fit and the summary.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON in place of the table.")] = False,
) -> None:
    """Fit several methods in turn and print a table.

    Each has its own learning rate unless --learning-rate is given to all,
    or --METHOD.learning-rate to one. Without --test-data the figure is that
    of the best epoch on the rows by which it was chosen, which flatters.
    """
    from petune.cli import comparing
    from petune.cli.knob_options import given_by
    from petune.cli.usage import UsageError
    from petune.cli.words import share_or_path

    share = share_or_path(eval_data)
    given = {"train": train, "model": model, "task": task, "eval_data": share,
             "tokenizer": tokenizer, "quantize": quantize}  # fmt: skip
    named = comparing.methods_of(methods)
    if not named:
        raise UsageError("--methods names no method.", fix="Give --methods lora,bottleneck.")
    arms = {method: comparing.arm_of(method, config, given, given_by(ctx)) for method in named}
    for arm in arms.values():
        arm.need("train", "model")
    found = list(comparing.runs(arms, seeds, test_data, lambda line: typer.echo(line, err=True)))
    made = {"test_data": test_data, "summary": comparing.summary(found), "runs": found}
    text = json.dumps(made, indent=1)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    where = f"of {test_data}" if test_data else "of the rows by which the best epoch was chosen: it flatters"
    typer.echo(text if as_json else f"{comparing.table(found)}\n{named_seeds(seeds)}; the figure is {where}.")


def named_seeds(count: int) -> str:
    """How many seeds there were, in words.

    Examples:
        >>> named_seeds(1), named_seeds(3)
        ('One seed, so no spread', '3 seeds: means, and the standard deviation of the figure')
    """
    return "One seed, so no spread" if count == 1 else f"{count} seeds: means, and the standard deviation of the figure"


def knobs(words: Sequence[str]) -> Any:
    """The knobs that can be turned here."""
    from petune.cli.comparing import knobs_by

    return knobs_by(words)
