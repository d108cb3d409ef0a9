"""Regular expressions in files: parsed, never run, and judged by their shape."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

LONGEST = 2000
"""Characters; a list of all modules of a large model written as one expression stays below."""
MOST_RUNS = 4
"""Unbounded repeats beside each other: a text of n characters may cost n to the power of their number."""
_PLAIN = re.compile(r"\^?[\w.\-\\]+\$?")
_MANY = 16
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")


def is_plain(text: str) -> bool:
    r"""Whether a pattern is a name and nothing more.

    Examples:
        >>> is_plain("layer.0.query"), is_plain(r"^layer\.0"), is_plain(".*query")
        (True, True, False)
    """
    return _PLAIN.fullmatch(text) is not None


def danger(pattern: str) -> str | None:
    """Why an expression may hang who runs it; None when its shape is harmless.

    Examples:
        >>> danger(r".*[.](q|v)_proj"), danger(r"(a+)+x")
        (None, 'a repeat inside of a repeat')
    """
    if len(pattern) > LONGEST:
        return f"{len(pattern)} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    except (re.error, OverflowError, ValueError) as error:
        return f"it does not parse: {error}"
    except RecursionError:
        return "it is nested too deeply"
    for name, detail in _operations(parsed):
        if name == "GROUPREF":
            return "a reference to a group"
        if name in _REPEATS and int(detail[1]) >= _MANY:
            inner = list(_operations(detail[2]))
            if any(name in _REPEATS and under[0] != under[1] for name, under in inner):
                return "a repeat inside of a repeat"
            if any(name == "BRANCH" for name, _ in inner):
                return "a choice inside of a repeat"
    runs = _runs(parsed)
    return f"{runs} open repeats" if runs > MOST_RUNS else None


def _runs(parsed: Any) -> int:
    """The most open repeats that one way through an expression meets."""
    met = 0
    for operation, detail in parsed:
        inner = [_runs(part) for part in _parts(detail)]
        if str(operation) in _REPEATS and int(detail[1]) - int(detail[0]) >= _MANY:
            met += 1
        met += max(inner, default=0) if str(operation) == "BRANCH" else sum(inner)
    return met


def _operations(parsed: Any) -> Iterator[tuple[str, Any]]:
    """(name, detail) of everything in a parsed expression, at any depth."""
    for operation, detail in parsed:
        yield str(operation), detail
        for part in _parts(detail):
            yield from _operations(part)


def _parts(detail: Any) -> Iterator[Any]:
    """The expressions in the detail of an operation."""
    if hasattr(detail, "data") and hasattr(detail, "state"):
        yield detail
    elif isinstance(detail, list | tuple):
        for item in detail:
            yield from _parts(item)
