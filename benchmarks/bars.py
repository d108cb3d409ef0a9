"""A bar chart as one SVG, drawn here: a plotting library would be a dependency for one picture."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

INK, PALE, BLUE, ORANGE, GREY = "#1f2328", "#d8dee4", "#0969da", "#bc4c00", "#6e7781"
LONGEST, LETTER, RIGHT, TOP, ROW = 440, 7, 90, 44, 26
"""In pixels: the longest bar, a letter of a name (at most), the margins, and the height that a bar takes."""


def drawn(title: str, bars: Mapping[str, float], marks: Mapping[str, float] | None = None) -> str:
    """Horizontal bars from 0, petune's blue, peft's and the Trainer's orange, others grey.

    Args:
        title: what is measured, and in what.
        bars: name -> length.
        marks: name of a bar -> where a line across it stands, such as its limit or its prediction.

    Example:
        >>> drawn("Real tokens/s", {"petune": 2.0, "peft": 1.0}).count("<rect")
        3
    """
    marks = marks or {}
    longest = max([*bars.values(), *(marks[name] for name in bars if name in marks), 1e-12])
    scale, high = LONGEST / longest, TOP + ROW * len(bars) + 14
    left = 20 + LETTER * max(map(len, bars))
    wide = left + LONGEST + RIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{wide}" height="{high}" fill="white"/>',
        f'<text x="14" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for index, (name, value) in enumerate(bars.items()):
        y = TOP + index * ROW
        lines.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect x="{left}" y="{y + 3}" width="{value * scale:.1f}" height="17" fill="{_colour(name)}"/>')
        end = max(value, marks.get(name, 0)) * scale
        lines.append(f'<text x="{left + end + 6:.1f}" y="{y + 15}">{number(value)}</text>')
        if name in marks:
            x = left + marks[name] * scale
            lines.append(f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 23}" stroke="{INK}" stroke-width="2"/>')
    return "\n".join([*lines, "</svg>", ""])


def number(value: float) -> str:
    """Three digits or so.

    Example:
        >>> number(0.126), number(48.26), number(20480.2)
        ('0.13', '48.3', '20,480')
    """
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _colour(name: str) -> str:
    if name.startswith("petune"):
        return BLUE
    return ORANGE if name.startswith(("peft", "full", "tutorial", "transformers")) else GREY
