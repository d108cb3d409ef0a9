"""The extra `report`: Jinja2 and matplotlib, which nothing else in petune needs."""

from __future__ import annotations

from importlib.util import find_spec

from petune.errors import ConfigError

PACKAGES = ("jinja2", "matplotlib")


def need(what: str, *packages: str) -> None:
    """Refuses when a package of the extra is not installed.

    Args:
        what: what was asked for.
        packages: what it needs; none names all of the extra.

    Raises:
        ConfigError: with the command that installs the extra.

    Examples:
        >>> need("A report", "json")
        >>> need("A plot", "no_such_package")
        Traceback (most recent call last):
        petune.errors.ConfigError: A plot needs no_such_package, which is not installed. Run pip install petune[report].
    """
    missing = [package for package in packages or PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{what} needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed.",
            fix="Run pip install petune[report].",
        )
