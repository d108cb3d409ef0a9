"""The curves of a serving result as one SVG, drawn here: a plotting library would be a dependency for four panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

Curve = list[tuple[float, float]]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 460, 330, 68, 66, 18, 48
"""Of a panel, in pixels; the last four are its margins."""
INK, PALE = "#1f2328", "#d8dee4"
STYLES = {
    "petune": ("#0969da", ""),
    "petune, heads": ("#0969da", "5 4"),
    "bank": ("#6e7781", ""),
    "peft": ("#bc4c00", ""),
    "peft, low memory": ("#bc4c00", "5 4"),
}
"""Arm -> colour and dashes, the same in every panel."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes; y is logarithmic, x as well if `doubling` is set."""

    title: str
    x: str
    y: str
    curves: dict[str, Curve]
    ticks: tuple[float, ...]
    doubling: bool = True


def drawn(figures: dict[str, Any]) -> str:
    """The whole picture, two panels in a row; figures that were not measured have no panel."""
    panels = [make(figures[name]) for name, make in PANELS.items() if name in figures]
    rows = math.ceil(len(panels) / 2)
    wide, high = 2 * WIDTH, max(1, rows) * HEIGHT
    inside: list[str] = []
    for index, panel in enumerate(panels):
        place = f"translate({index % 2 * WIDTH} {index // 2 * HEIGHT})"
        inside += [f'<g transform="{place}">', *_panel(panel), "</g>"]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">'
    )
    return "\n".join([head, f'<rect width="{wide}" height="{high}" fill="white"/>', *inside, "</svg>", ""])


def _panel(panel: Panel) -> Iterable[str]:
    """Title, legend, grid, axes and curves."""
    values = [y for curve in panel.curves.values() for _, y in curve]
    marks = y_ticks(min(values), max(values))
    to_x = _scale(panel.ticks[0], panel.ticks[-1], LEFT, WIDTH - RIGHT, panel.doubling)
    to_y = _scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP, True)
    yield _text(LEFT, 22, panel.title, 'font-size="14" font-weight="bold"')
    yield from _legend(list(panel.curves))
    for mark in marks:
        yield _line(LEFT, to_y(mark), WIDTH - RIGHT, to_y(mark), PALE)
        yield _text(LEFT - 8, to_y(mark) + 4, f"{mark:g}", 'text-anchor="end"')
    for tick in panel.ticks:
        yield _line(to_x(tick), HEIGHT - BOTTOM, to_x(tick), HEIGHT - BOTTOM + 5, INK)
        yield _text(to_x(tick), HEIGHT - BOTTOM + 19, f"{tick:g}", 'text-anchor="middle"')
    yield _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, INK)
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, panel.x, 'text-anchor="middle"')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield _text(16, middle, panel.y, f'text-anchor="middle" transform="rotate(-90 16 {middle:g})"')
    for name, curve in panel.curves.items():
        yield from _curve(name, [(to_x(x), to_y(y)) for x, y in curve])


def _legend(names: list[str]) -> Iterable[str]:
    """A short line and the name of every curve, in a row."""
    x = float(LEFT)
    for name in names:
        colour, dashes = STYLES[name]
        yield _line(x, 42, x + 22, 42, colour, _stroke(dashes))
        yield _text(x + 27, 46, name)
        x += 27 + 6.5 * len(name) + 14


def _curve(name: str, points: Curve) -> Iterable[str]:
    """The line, and a dot per point where there are few."""
    colour, dashes = STYLES[name]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" {_stroke(dashes)}/>'
    if len(points) <= 8:
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)


def _stroke(dashes: str) -> str:
    return 'stroke-width="2"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _scale(low: float, high: float, start: float, end: float, logarithmic: bool) -> Callable[[float], float]:
    """From data to pixels."""
    of = math.log if logarithmic else float
    span = of(high) - of(low) or 1.0
    return lambda value: start + (of(value) - of(low)) / span * (end - start)


def y_ticks(low: float, high: float) -> list[float]:
    """Round numbers around the data: 1, 2, 5, 10, ... or powers of ten where there are many.

    Example:
        >>> y_ticks(1.04, 13.2)
        [1.0, 2.0, 5.0, 10.0, 20.0]
        >>> y_ticks(0.004, 30)
        [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]
    """
    steps = (1, 2, 5) if high / low < 200 else (1,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    found = [float(f"{step}e{power}") for power in powers for step in steps]
    below, above = [tick for tick in found if tick <= low], [tick for tick in found if tick >= high]
    return [tick for tick in found if below[-1] <= tick <= above[0]]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def _routing(figure: dict[str, Any]) -> Panel:
    cells = [cell for cell in figure["cells"] if cell["targets"] == "all linear"]
    curves = {
        arm: [(cell["tokens"], cell["over_bare"][arm]) for cell in cells]
        for arm in ("petune", "petune, heads", "bank", "peft")
    }
    ticks = tuple(cell["tokens"] for cell in cells)
    title = f"{cells[0]['rows']} rows, an adapter each (all linear maps)"
    return Panel(title, "tokens per row", "time over the bare backbone", curves, ticks)


def _distinct(figure: dict[str, Any]) -> Panel:
    cell = figure["cells"][-1]
    counts = sorted(int(name.split()[1]) for name in cell["milliseconds"] if name.startswith("petune"))
    curves: dict[str, Curve] = {
        arm: [(count, cell["milliseconds"][f"{arm} {count}"]["median"]) for count in counts]
        for arm in ("petune", "peft")
    }
    title = f"One batch of {cell['rows']} rows x {cell['tokens']} tokens"
    return Panel(title, "distinct adapters in it", "milliseconds", curves, tuple(counts))


def _switching(figure: dict[str, Any]) -> Panel:
    marks = tuple(cell["resident"] for cell in figure["cells"])
    curves = {
        arm: [(cell["resident"], cell["milliseconds"][arm]["median"]) for cell in figure["cells"]]
        for arm in ("petune", "peft")
    }
    return Panel("Switching the adapter of the model", "adapters resident", "milliseconds", curves, marks)


def _loading(figure: dict[str, Any]) -> Panel:
    curves = {cell["arm"]: [(n + 2.0, y) for n, y in enumerate(cell["curve"])] for cell in figure["cells"]}
    last = max(len(curve) for curve in curves.values()) + 1
    ticks = (2.0, *(float(n) for n in figure["cells"][0]["at"] if 2 < int(n) < last), float(last))
    ordered = {name: curves[name] for name in STYLES if name in curves}
    return Panel("Loading the n-th adapter from disk", "n", "milliseconds", ordered, ticks, doubling=False)


PANELS: dict[str, Callable[[dict[str, Any]], Panel]] = {
    "routing": _routing,
    "distinct": _distinct,
    "switching": _switching,
    "loading": _loading,
}
"""Figure -> its panel; the figures that are single numbers stand in the table only."""
