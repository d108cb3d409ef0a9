"""Four threads ask one model while another one changes it, in eight scenes; and what is left when they are through.

An answer is *wrong* when it is that of an adapter that was not asked, and *torn* when it is nobody's; both are told by
comparing bits. A call that is refused with the error that the docs promise (an adapter that is not merged, while
another one is) is counted apart; any other error is a failure. Memory is looked at twice, at rest, after a warm-up and
at the end: resident memory, live tensors, open files. Controls: the same load on peft's hot swap, which promises
nothing to threads and shows that the harness can see a torn answer, and on the same under one lock, which shows that
it makes none up.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch

from benchmarks.faults.thread_control import peft_swaps
from benchmarks.faults.thread_scenes import SCENES, WAIT, Scene, known
from tests.versions import VERSIONS

COUNT = 12_000
"""Forwards in all scenes together; a change for every 16 of them."""
THREADS = 4
PER_CHANGE = 16
SECONDS = 300.0
"""After which a scene is broken off, and has failed."""
WARM_UP = 0.25
"""The share of the forwards before memory is first looked at."""
ROUND = 2 * len(VERSIONS)
"""Changes after which each kind of adapter has come from memory and from disk: what is kept per kind is there then."""
GROWTH = {"megabytes": 24, "tensors": 0, "files": 0}
"""How much more there may be at the end of a scene than after its warm-up."""


class Held(NamedTuple):
    """What the process holds."""

    megabytes: int
    tensors: int
    files: int

    @classmethod
    def now(cls) -> Held:
        """Counted after a collection."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        return cls(pages * os.sysconf("SC_PAGESIZE") // 2**20, tensors, len(os.listdir("/proc/self/fd")))


def run(count: int = COUNT, seed: int = 0, *, control: bool = True) -> dict[str, Any]:
    """Plays every scene; counts by scene and in all."""
    share = -(-count // len(SCENES))
    with tempfile.TemporaryDirectory() as folder, _one_thread_each():
        known()
        scenes = {name: played(make(Path(folder)), share, seed) for name, make in SCENES.items()}
        controls = peft_swaps(Path(folder), share) if control else {}
    total: Counter[str] = Counter()
    for found in scenes.values():
        total.update({key: value for key, value in found.items() if not key.startswith("grown")})
    return {**total, "scenes": scenes, **({"control": controls} if control else {})}


def played(scene: Scene, forwards: int, seed: int = 0) -> dict[str, int]:
    """One scene, first its warm-up; what came of both, and what grew in between."""
    counts: Counter[str] = Counter(forwards=0, changes=0, wrong=0, torn=0, refused=0, errors=0)
    for step in range(ROUND):
        scene.disturb(step)
    warm = max(1, int(forwards * WARM_UP))
    _part(scene, warm, counts, seed)
    scene.settle()
    before = Held.now()
    _part(scene, forwards - warm, counts, seed + 1)
    scene.settle()
    after = Held.now()
    grown = {f"grown_{key}": now - then for key, then, now in zip(Held._fields, before, after, strict=True)}
    kept = all(grown[f"grown_{key}"] <= limit for key, limit in GROWTH.items())
    counts["failures"] = counts["wrong"] + counts["torn"] + counts["errors"] + (not kept) + (not scene.check())
    return {**counts, **grown}


def _part(scene: Scene, forwards: int, counts: Counter[str], seed: int) -> None:
    """Threads ask and one changes until there were enough of both."""
    end, lock, over = time.monotonic() + SECONDS, threading.Lock(), threading.Event()
    found: Counter[str] = Counter()
    changes = -(-forwards // PER_CHANGE)

    def note(what: str, more: int = 1) -> None:
        with lock:
            found[what] += more
            if found["forwards"] >= forwards and found["changes"] >= changes:
                over.set()
            elif time.monotonic() > end:
                found["errors"] += not over.is_set()
                over.set()

    def asking(thread: int) -> None:
        dice = Random(f"{seed} {thread}")
        while not over.is_set():
            try:
                complaint = scene.ask(thread, dice)
            except Exception as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                complaint = "errors"
            if complaint:
                note(complaint)
            note("forwards")

    def changing() -> None:
        step = 0
        while not over.is_set():
            try:
                scene.disturb(step)
            except Exception as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                note("errors")
            step += 1
            note("changes", scene.changes)
            with lock:  # not many more changes than asked for: they would starve those who ask
                ahead = found["changes"] * forwards > (found["forwards"] + forwards // 8) * changes
            over.wait(0.002 if ahead else 0)

    threads = [threading.Thread(target=asking, args=(number,), daemon=True) for number in range(THREADS)]
    threads.append(threading.Thread(target=changing, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + WAIT)
        found["errors"] += thread.is_alive()
    counts.update(found)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Threads take turns often, and torch uses none of its own: there are enough."""
    turns, threads = sys.getswitchinterval(), torch.get_num_threads()
    logger = logging.getLogger("petune")
    level = logger.level
    sys.setswitchinterval(2e-4)
    torch.set_num_threads(1)
    logger.setLevel(logging.ERROR)  # the same notice at every load
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.setswitchinterval(turns)
        torch.set_num_threads(threads)
