"""The error of a command that was called wrongly: told like any other, and the exit code is 2."""

from __future__ import annotations

from petune.errors import ConfigError, PetuneError


class UsageError(ConfigError):
    """A word, an option or a line of a file that cannot be meant; nothing was started yet."""


def as_usage(error: PetuneError, where: str = "") -> UsageError:
    """The same three sentences, as wrong usage.

    Args:
        where: stands before them, such as `run.yaml:7: `.

    Examples:
        >>> print(as_usage(ConfigError("epochs=0 is out of range."), "run.yaml:7: "))
        run.yaml:7: epochs=0 is out of range.
    """
    return UsageError(f"{where}{error.what}", expected=error.expected, fix=error.fix)
