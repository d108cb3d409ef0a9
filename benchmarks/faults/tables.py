"""The counts of all harnesses as a table."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

SKIPPED = ("failures", "wrong")
"""The column of its own, and details."""


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
    """The numbers among the counts, two levels deep, in words; what is zero is left out."""
    for key, value in counts.items():
        words = f"{within}{key}".replace("_", " ")
        if isinstance(value, Mapping) and not within:
            yield from _told(value, f"{words}: ")
        elif isinstance(value, int) and not isinstance(value, bool) and value and key not in SKIPPED:
            yield f"{words} {value:,}"
