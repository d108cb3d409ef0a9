"""A serving result as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

FIGURES = ("routing", "distinct", "switching", "loading", "merging", "traffic", "generating")
"""In the order of the table; each is a module of this package with `run(settings)`."""


def table(result: dict[str, Any]) -> str:
    """Every figure beside its target, then the arms of the routed batches; what was not measured is named.

    Args:
        result: what `benchmarks/results/serving.json` holds.
    """
    figures = result["figures"]
    lines = ["| figure | target | measured | met |", "|---|---:|---:|---|"]
    for name in FIGURES:
        lines += [claim_row(claim) for claim in figures.get(name, {}).get("claims", [])]
    if "routing" in figures:
        lines += ["", *routing_rows(figures["routing"]["cells"])]
    if missing := [name for name in FIGURES if name not in figures]:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    return "\n".join(lines)


def claim_row(claim: dict[str, Any]) -> str:
    """One row of the table.

    Example:
        >>> claim_row({"figure": "x", "sense": "at least", "target": 500.0, "measured": 1234.5, "met": True})
        '| x | at least 500 | 1,234 | yes |'
    """
    target = f"{claim['target']:g}" if claim["target"] >= 2 else f"{claim['target']:.2f}"
    return f"| {claim['figure']} | {claim['sense']} {target} | {number(claim['measured'])} | {yes(claim['met'])} |"


def routing_rows(cells: list[dict[str, Any]]) -> Iterable[str]:
    """The time of every arm over the bare backbone's."""
    arms = [name for name in cells[0]["over_bare"] if name != "bare"]
    yield f"| targets | tokens per row | bare, ms | {' | '.join(arms)} |"
    yield f"|---|---:|---:|{'---:|' * len(arms)}"
    for cell in cells:
        over = " | ".join(number(cell["over_bare"][arm]) for arm in arms)
        bare = cell["milliseconds"]["bare"]["median"]
        yield f"| {cell['targets']} | {cell['tokens']} | {bare:.1f} | {over} |"


def number(value: float) -> str:
    """Two decimals for small numbers, none for large ones.

    Example:
        >>> number(1.126), number(48.26), number(20480.2)
        ('1.13', '48.3', '20,480')
    """
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def yes(met: bool) -> str:
    """A word for a met target, a loud one for a missed one."""
    return "yes" if met else "**no**"
