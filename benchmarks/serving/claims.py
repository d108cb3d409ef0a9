"""A figure beside its target."""

from __future__ import annotations

from typing import Any


def at_least(what: str, target: float, measured: float) -> dict[str, Any]:
    """A figure that should be high, as JSON."""
    return _claim(what, "at least", target, measured, measured >= target)


def at_most(what: str, target: float, measured: float) -> dict[str, Any]:
    """A figure that should be low, as JSON."""
    return _claim(what, "at most", target, measured, measured <= target)


def _claim(what: str, sense: str, target: float, measured: float, met: bool) -> dict[str, Any]:
    return {"figure": what, "sense": sense, "target": target, "measured": measured, "met": bool(met)}


def hold(what: str, measured: float, allowed: float) -> float:
    """The measured difference, where it is allowed; speed of wrong answers is not reported.

    Raises:
        AssertionError: the arms do not give the same answers.
    """
    if not measured <= allowed:
        raise AssertionError(f"{what}: the answers differ by {measured:.2e}, at most {allowed:g} is allowed.")
    return measured
