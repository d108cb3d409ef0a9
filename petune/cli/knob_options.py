"""Knobs as options: a command's function with the options of its knobs put beside its own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from petune.cli.knob_list import Knob
from petune.cli.words import called, options_of, value_of

Given = dict[tuple[str, ...], Any]
"""The knobs that the words of a call name, by their paths."""


def with_knobs(function: Callable[..., Any], knobs: Sequence[Knob]) -> Callable[..., Any]:
    """The function with an option for each knob; those that were given are its `ctx.obj`, a `Given`."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())
    made = {f"knob_{index}": knob for index, knob in enumerate(knobs)}

    @functools.wraps(function)
    def command(**words: Any) -> Any:
        given = {knob.path: words.pop(name) for name, knob in made.items()}
        words["ctx"].obj = {path: value[0] for path, value in given.items() if value is not None}
        return function(**words)

    options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=_option(knob), default=None)
               for name, knob in made.items()]  # fmt: skip
    signature = inspect.Signature([one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own] + options)
    command.__signature__ = signature  # type: ignore[attr-defined]
    return command


def given_by(ctx: typer.Context) -> Given:
    """The knobs that were given; none where the command was built without them."""
    return dict(ctx.obj or {})


def named(words: Sequence[str], *options: str) -> str | None:
    """The value of an option among words that are not parsed yet; the last one counts.

    Examples:
        >>> named(["train.csv", "--method=lora", "--method", "prefix"], "--method"), named([], "--method")
        ('prefix', None)
    """
    found = None
    for index, word in enumerate(words):
        for option in options:
            if word == option and index + 1 < len(words):
                found = words[index + 1]
            elif word.startswith(f"{option}="):
                found = word.partition("=")[2]
    return found


def _option(knob: Knob) -> Any:
    """The annotation from which typer makes the option. Values come in a tuple: None alone means `not given`."""
    if options_of(knob.hint) == (bool,):
        positive = knob.option
        first, _, last = positive.removeprefix("--").rpartition(".")
        negative = f"--{first}{'.' if first else ''}no-{last}"
        return Annotated[bool | None, typer.Option(f"{positive}/{negative}", callback=_boxed, **_said(knob))]

    def parsed(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        try:
            return (value_of(text, knob.hint),)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return Annotated[Any, typer.Option(knob.option, parser=parsed, metavar=called(knob.hint), **_said(knob))]


def _boxed(value: bool | None) -> Any:
    return None if value is None else (value,)


def _said(knob: Knob) -> dict[str, Any]:
    """Help and heading; the default is the dataclass's own."""
    default = ",".join(map(str, knob.default)) if isinstance(knob.default, tuple) else knob.default
    shown = f" [default: {default}]" if default not in (None, "", (), {}) else ""
    return {"help": knob.help + shown, "show_default": False, "rich_help_panel": f"Knobs of {knob.room}"}
