"""Pictures by matplotlib: curves, a scatter, lengths; figures for a screen, SVG in the colours of a page.

Nothing global is touched: figures are made without pyplot, and settings hold for one drawing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from petune.training.report import EVAL

History = Sequence[Mapping[str, Any]]
MOST_POINTS = 400
"""Of one curve; more steps than that are drawn as means of neighbours."""
MOST_DOTS = 600


class Palette(NamedTuple):
    """The colours of a picture."""

    ink: str = "#24292f"
    line: str = "#d0d7de"
    first: str = "#0969da"
    second: str = "#bc4c00"


PAGE = Palette("#010101", "#020202", "#030303", "#040404")
"""Stand-ins: in a page they are replaced by its variables, so that one drawing serves light and dark."""
_VARIABLES = dict(zip(PAGE, ("var(--soft)", "var(--line)", "var(--first)", "var(--second)"), strict=True))


class Panel(NamedTuple):
    """One picture: its title, and what draws it."""

    title: str
    draw: Callable[[Axes, Palette], None]


def panels(history: History, metric: str | None, best_step: int | None) -> list[Panel]:
    """The curves that a history holds: losses, the chosen figure, the learning rate.

    Args:
        metric: the figure that chose the best evaluation; None, or the loss, has no panel of its own.
        best_step: marked where there is one.
    """
    steps, name = [row for row in history if "loss" in row], f"{EVAL}{metric}"
    made = []
    if steps or _curve(history, f"{EVAL}loss")[0].size:
        made.append(Panel("Loss", lambda axes, palette: _losses(axes, palette, history, best_step)))
    if metric not in (None, "loss") and _curve(history, name)[0].size:
        label = str(metric)
        made.append(Panel(label, lambda axes, palette: _figure(axes, palette, history, name, best_step)))
    if steps:
        made.append(Panel("Learning rate", lambda axes, palette: _rate(axes, palette, history)))
    return made


def scatter(given: Sequence[float], answered: Sequence[float]) -> Panel:
    """Given numbers against answers; the diagonal is where they agree."""
    keep = np.linspace(0, len(given) - 1, min(len(given), MOST_DOTS)).round().astype(int)
    x, y = np.asarray(given, dtype=float)[keep], np.asarray(answered, dtype=float)[keep]

    def draw(axes: Axes, palette: Palette) -> None:
        ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        axes.plot(ends, ends, color=palette.second, linewidth=1)
        axes.plot(x, y, "o", color=palette.first, markersize=3, alpha=0.5, markeredgewidth=0)
        axes.set_xlabel("given")
        axes.set_ylabel("answered")

    return Panel("Given and answered", draw)


def lengths(edges: Sequence[float], counts: Sequence[int]) -> Panel:
    """How long the rows are."""

    def draw(axes: Axes, palette: Palette) -> None:
        axes.bar(edges[:-1], counts, width=np.diff(edges) * 0.9, align="edge", color=palette.first)
        axes.set_xlabel("pieces per row")
        axes.set_ylabel("rows")

    return Panel("Lengths", draw)


class Shown(Figure):
    """A figure that a notebook shows whatever backend it has chosen."""

    def _repr_svg_(self) -> str:
        return _svg(self)


def figure_of(made: Sequence[Panel]) -> Figure:
    """All panels beside each other, for a screen."""
    palette = Palette()
    with matplotlib.rc_context(_settings(palette)):
        figure = Shown(figsize=(4.2 * len(made), 3.2), layout="constrained")
        for index, panel in enumerate(made, start=1):
            axes = figure.add_subplot(1, len(made), index)
            _plain(axes, palette)
            panel.draw(axes, palette)
            axes.set_title(panel.title, parse_math=False)
    return figure


def svg_of(panel: Panel, salt: str) -> str:
    """One panel as inline SVG in the colours of the page; the same for the same panel.

    Args:
        salt: told apart from the other drawings of a page, so that their inner names do not meet.
    """
    with matplotlib.rc_context({**_settings(PAGE), "svg.fonttype": "none", "svg.hashsalt": salt}):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        _plain(axes, PAGE)
        panel.draw(axes, PAGE)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        text = _svg(figure)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text[text.index("<svg") :])
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text))
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})
    return written.getvalue()


def _settings(palette: Palette) -> dict[str, Any]:
    """Only what a picture must not take from the reader's own matplotlibrc."""
    return {
        "font.size": 9, "axes.titlesize": 10, "axes.labelcolor": palette.ink, "text.color": palette.ink,
        "xtick.color": palette.ink, "ytick.color": palette.ink, "axes.edgecolor": palette.line,
        "grid.color": palette.line, "legend.frameon": False, "axes.unicode_minus": False, "text.usetex": False,
    }  # fmt: skip


def _plain(axes: Axes, palette: Palette) -> None:
    """Two edges and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, linewidth=0.6)
    axes.set_axisbelow(True)


def _losses(axes: Axes, palette: Palette, history: History, best_step: int | None) -> None:
    x, y = _curve(history, "loss")
    if len(x) > 20:
        axes.plot(x, y, color=palette.first, linewidth=0.7, alpha=0.3)
        axes.plot(x, _smooth(y), color=palette.first, linewidth=1.6, label="train")
    elif len(x):
        axes.plot(x, y, color=palette.first, linewidth=1.6, label="train")
    x, y = _curve(history, f"{EVAL}loss")
    if len(x):
        axes.plot(x, y, "o-", color=palette.second, linewidth=1.4, markersize=3.5, label="evaluation")
        _mark(axes, palette, x, y, best_step)
    axes.set_xlabel("step")
    axes.legend()


def _figure(axes: Axes, palette: Palette, history: History, name: str, best_step: int | None) -> None:
    x, y = _curve(history, name)
    axes.plot(x, y, "o-", color=palette.second, linewidth=1.4, markersize=3.5)
    _mark(axes, palette, x, y, best_step)
    axes.set_xlabel("step")


def _rate(axes: Axes, palette: Palette, history: History) -> None:
    x, y = _curve(history, "learning_rate")
    axes.plot(x, y, color=palette.first, linewidth=1.6)
    axes.set_xlabel("step")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)


def _mark(axes: Axes, palette: Palette, x: np.ndarray, y: np.ndarray, best_step: int | None) -> None:
    """A ring around the best evaluation."""
    for at in np.flatnonzero(x == best_step):
        axes.plot(x[at], y[at], "o", markersize=9, markerfacecolor="none", markeredgecolor=palette.ink)


def _curve(history: History, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values; of very many the means of neighbours."""
    pairs = [(row["step"], row[name]) for row in history if row.get(name) is not None and np.isfinite(row[name])]
    x, y = np.array(pairs, dtype=float).reshape(-1, 2).T
    if len(x) <= MOST_POINTS:
        return x, y
    cuts = np.array_split(np.arange(len(x)), MOST_POINTS)
    return np.array([x[cut].mean() for cut in cuts]), np.array([y[cut].mean() for cut in cuts])


def _smooth(values: np.ndarray, share: float = 0.9) -> np.ndarray:
    """A running mean that forgets, corrected for its start."""
    mean, made = 0.0, []
    for count, value in enumerate(values, start=1):
        mean = share * mean + (1 - share) * value
        made.append(mean / (1 - share**count))
    return np.array(made)
