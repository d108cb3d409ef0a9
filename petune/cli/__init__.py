"""The command line: the verbs of petune, one file each in `petune/cli/commands/`.

`main` is what `petune` and `python -m petune` run. Exit codes: 0 it went well, 1 the job failed, 2 it was called
wrongly (`petune.cli.running`).
"""

from __future__ import annotations

from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command and leaves the program.

    Args:
        args: the words after `petune`; None: those of the program.

    Raises:
        SystemExit: always, with the exit code.
    """
    from petune.cli.running import run

    raise SystemExit(run(args))


__all__ = ["main"]
