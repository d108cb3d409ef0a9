"""Timing side by side: the arms of a comparison take turns, so that whatever else the machine does meets all of them.

A turn is one call that is not timed (it brings the arm's own weights back into the caches; calls of more than a second
do without it) and then as many timed calls as fill `at_least` seconds; the turn counts as the mean of these. The order
of the arms rotates with every round, and the first round is dropped. Python's garbage collector rests during timed
calls, in every arm alike.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

Call = Callable[[], Any]
MOST_CALLS = 100_000
LONG = 1.0
"""Seconds above which a call needs no other call before it to find the caches as it would leave them."""


def interleaved(arms: Mapping[str, Call], repeats: int, at_least: float = 0.1) -> dict[str, list[float]]:
    """Seconds per call of each arm, one figure per repeat.

    Args:
        arms: name -> what is timed.
        repeats: rounds that count; one more is run first and dropped.
        at_least: seconds that a turn lasts, where one call is shorter.
    """
    turns = {name: _turn(call, at_least) for name, call in arms.items()}
    kept: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(repeats + 1):
        for name in rotated(list(arms), number):
            if turns[name].warmed:
                arms[name]()
            seconds = several(arms[name], turns[name].calls)
            if number:
                kept[name].append(seconds)
    return kept


def rotated(names: list[str], by: int) -> Iterator[str]:
    """The names in turn, beginning with another one each time."""
    return (names[(by + index) % len(names)] for index in range(len(names)))


def several(call: Call, calls: int) -> float:
    """Seconds per call, the mean of `calls` calls in a row."""
    with resting_collector():
        started = perf_counter()
        for _ in range(calls):
            call()
        return (perf_counter() - started) / calls


def once(call: Call) -> float:
    """Seconds of a single call, for what cannot be repeated."""
    return several(call, 1)


@contextmanager
def resting_collector() -> Iterator[None]:
    """No garbage collection inside."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def summary(seconds: list[float]) -> dict[str, float]:
    """What a result keeps of an arm: the median and the range, in milliseconds."""
    figures = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
    return {name: value * 1e3 for name, value in figures.items()} | {"repeats": len(seconds)}


class _Turn(NamedTuple):
    """How an arm takes its turn."""

    calls: int
    warmed: bool


def _turn(call: Call, at_least: float) -> _Turn:
    """How many calls fill a turn; the very first call warms up and is not counted."""
    seconds = several(call, 1)
    if seconds < LONG:
        seconds = several(call, 1)
    if seconds < at_least / 100:
        seconds = several(call, 100)  # one call alone is too short to be a measure of itself
    return _Turn(min(MOST_CALLS, max(1, math.ceil(at_least / max(seconds, 1e-9)))), seconds < LONG)
