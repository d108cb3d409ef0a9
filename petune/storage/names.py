"""What may name an adapter. A name is a label: routes, messages and manifests carry it, and no path is made of it."""

from __future__ import annotations

from petune.errors import ConfigError

LONGEST = 255
"""Characters; also what a folder's name may have on most file systems."""


def check_name(name: str) -> str:
    """A name that routes, messages and folders can carry.

    Raises:
        ConfigError: an empty or very long name, or one with a path, control or invisible character in it.

    Examples:
        >>> check_name("sst2-v1")
        'sst2-v1'
    """
    why = _why_not(name)
    if why:
        shown = repr(name) if len(str(name)) <= 60 else f"{str(name)[:60]!r}..."
        raise ConfigError(
            f"{shown} cannot name an adapter: it {why}.",
            expected=f"A name is printable, holds no slash and has 1 to {LONGEST} characters.",
            fix="Choose letters, digits, dots and dashes, such as 'sst2-v1'.",
        )
    return name


def _why_not(name: object) -> str:
    """What speaks against a name; empty when nothing does."""
    if not isinstance(name, str):
        return f"is a {type(name).__name__}"
    if not name.strip():
        return "is blank"
    if name in (".", ".."):
        return "means a folder"
    if len(name) > LONGEST:
        return f"has {len(name)} characters"
    bad = next((char for char in name if char in "/\\" or not char.isprintable()), None)
    return "" if bad is None else f"holds the character {bad!r}"
