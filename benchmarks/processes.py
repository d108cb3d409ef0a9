"""A function in a process of its own, so that its memory is its own: nothing of what ran before is there.

Forked from a server that has imported the libraries and done nothing else (where forking is not possible, started
anew). Linux tells the largest resident memory of a process; what it had before the work began is taken off.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from benchmarks.compare import MEGABYTE, PRELOADED, peak_megabytes


def in_its_own(function: Callable[..., Any], *args: Any, threads: int = 2) -> Any:
    """What a module's function answers in a fresh process."""
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    if kind == "forkserver":
        context.set_forkserver_preload([*PRELOADED, "peft", "transformers.trainer", "benchmarks.processes"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_threads, threads, function, args).result()


def _with_threads(threads: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    torch.set_num_threads(threads)
    return function(*args)


class Growth:
    """What this process grew by since now, at most; in megabytes."""

    def __init__(self) -> None:
        self.before = psutil.Process().memory_info().rss / MEGABYTE

    @property
    def megabytes(self) -> float:
        """So far. Only what lies above the largest that the process ever had before can be seen."""
        return max(peak_megabytes() - self.before, 0.0)
