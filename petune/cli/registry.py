"""Commands by their names: the folder is the registry, and a command is imported when it is asked for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from petune.cli import commands
from petune.cli.helping import Command
from petune.lookup import near

CONTEXT = {"help_option_names": ["-h", "--help"]}


def names() -> tuple[str, ...]:
    """The names of all commands; a file `many_words.py` is the command `many-words`.

    Examples:
        >>> "doctor" in names()
        True
    """
    found = (info.name for info in pkgutil.iter_modules(commands.__path__) if not info.name.startswith("_"))
    return tuple(sorted(name.replace("_", "-") for name in found))


def build(name: str, words: Sequence[str] | None = None) -> Any:
    """The command of a name, ready to be called.

    Args:
        words: what follows the name. Where the file of the command has a function `knobs`, which tells by these words
            what can be turned, the command gets an option for each knob; None leaves them out, and nothing heavy is
            imported.

    Examples:
        >>> build("doctor").name
        'doctor'
    """
    word = name.replace("-", "_")
    module = importlib.import_module(f"{commands.__name__}.{word}")
    function = getattr(module, word)
    if words is not None and hasattr(module, "knobs"):
        from petune.cli.knob_options import with_knobs

        function = with_knobs(function, module.knobs(words))
    app = typer.Typer(add_completion=False, context_settings=CONTEXT, rich_markup_mode=None)
    app.command(name, cls=Command)(function)
    return get_command(app)


class Commands(TyperGroup):
    """The group whose members are the files of `petune/cli/commands`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, sorted."""
        return list(names())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None where nothing answers to the name."""
        return build(cmd_name) if cmd_name in names() else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the words call; a misspelt one is answered with the near ones."""
        if args and args[0] not in names() and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}. {near(args[0], names())}")
        if args and args[0] in names():
            return args[0], build(args[0], args[1:]), args[1:]
        return super().resolve_command(ctx, args)
