"""One run of the command line: what it prints when it fails, and the code that it leaves with."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

import petune
from petune.cli.registry import CONTEXT, Commands
from petune.cli.spelling import spelt
from petune.errors import ConfigError, PetuneError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
VERBOSE = ("-v", "--verbose")
_ISSUES = "Run it again with -v to see where it came from; that belongs into a report of the fault."


def run(args: Sequence[str] | None = None) -> int:
    """Runs the words of one call; errors go to stderr in plain words, with tracebacks only after `-v`.

    Returns:
        The exit code: 0 it went well, 1 the job failed, 2 it was called wrongly, 130 Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    # Wherever it stands, so that a line that failed can be run again with a -v behind it.
    verbose = any(word in VERBOSE for word in words)
    before, warnings.showwarning = warnings.showwarning, _warn
    try:
        get_command(_app()).main(args=[word for word in words if word not in VERBOSE], prog_name="petune")
    except SystemExit as leaving:
        return _code(leaving)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if verbose:
            traceback.print_exc()
        else:
            typer.echo("\n".join(_words(error)), err=True)
        return MISUSED if isinstance(error, ConfigError) else FAILED
    finally:
        warnings.showwarning = before
    return 0


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a line, without the place in the code that gave it."""
    typer.echo(f"Warning: {message}", err=True)


def _app() -> typer.Typer:
    app = typer.Typer(
        cls=Commands, rich_markup_mode=None, add_completion=False, no_args_is_help=True, context_settings=CONTEXT
    )
    app.callback()(_petune)
    return app


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"petune {petune.__version__}")
        raise typer.Exit()


def _petune(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    verbose: Annotated[bool, typer.Option(*VERBOSE, help="After any command: show where an error came from.")] = False,
) -> None:
    """Parameter-efficient tuning of frozen transformers backbones."""


def _words(error: Exception) -> list[str]:
    """An error as lines: what happened, what was expected, how to fix it."""
    if isinstance(error, PetuneError):
        return [f"Error: {spelt(error.what)}", *(spelt(part) for part in (error.expected, error.fix) if part)]
    return [f"Error: {type(error).__name__}: {error}", "petune did not foresee this.", _ISSUES]


def _code(leaving: SystemExit) -> int:
    return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else FAILED
