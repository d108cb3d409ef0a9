"""The counts of all harnesses as a table."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

SKIPPED = ("failures", "wrong", "calls", "left_files_behind")
"""The column of its own, and details; the next save sweeps what a killed one left behind."""
DETAILS = ("scenes", "by_surface", "by_group", "by_file")
"""Cuts of numbers that are told as a whole."""


def table(found: dict[str, Any]) -> str:
    """One row a harness: what it does, by the first line of its file, what it counted, and how often it failed."""
    lines = ["| harness | what happens | counted | failures |", "|---|---|---|---:|"]
    for name, section in sorted(found["harnesses"].items()):
        counts = section["counts"]
        lines.append(f"| `{name}` | {_what(name)} | {', '.join(_told(counts))} | {counts['failures']:,} |")
    return "\n".join(lines)


def _what(name: str) -> str:
    """The first sentence of a harness."""
    about = importlib.import_module(f"benchmarks.faults.{name}").__doc__ or ""
    return about.strip().split("\n\n")[0].replace("\n", " ").rstrip(".")


def _told(counts: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """The numbers among the counts in words; what is zero is left out, and what is told by its sum."""
    for key, value in counts.items():
        words = f"{within}{key}".replace("_", " ")
        if isinstance(value, Mapping) and key not in DETAILS:
            yield from _told(value, f"{words}: ")
        elif isinstance(value, int) and not isinstance(value, bool) and value and key not in SKIPPED:
            yield f"{words} {value:,}"
