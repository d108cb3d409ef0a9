"""What other threads do to a model while four of them ask it: eight scenes, each with the answers that are right.

Every answer is compared bit by bit with those of the allowed adapters, each computed beforehand, alone on a model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from petune import AdaptedModel, AdapterStore
from petune.errors import AdapterError, MergeError
from petune.storage import adapter_file
from petune.storage.packing import pack
from tests import tiny
from tests.versions import INPUTS, VERSIONS, serving, version

WAIT = 60.0
"""Seconds after which a thread that waits is taken for stuck."""
Ask = Callable[[int, Random], str | None]
"""Thread number and its dice to what is wrong with the answer: `"wrong"`, `"torn"`, `"refused"`, or None."""
Bits = tuple[bytes | None, ...]


@dataclass
class Scene:
    """One scene.

    Args:
        disturb: one change, by its number.
        changes: how many changes to residents, routes or weights one `disturb` is.
        settle: puts the model into the state from which memory is counted.
        check: what must hold at the end; True is good.
    """

    model: AdaptedModel
    ask: Ask
    disturb: Callable[[int], Any]
    settle: Callable[[], Any]
    changes: int = 1
    check: Callable[[], bool] = lambda: True


@torch.no_grad()
def bits(model: AdaptedModel, **route: Any) -> Bits:
    """The answer's bytes; a tuple of each row's where rows have answers of their own."""
    found = model(**INPUTS, **route)
    logits = found.logits if hasattr(found, "logits") else found.last_hidden_state
    rows = [logits] if isinstance(logits, torch.Tensor) else list(logits)
    return tuple(None if row is None else row.numpy().tobytes() for row in rows)


@cache
def alone(number: int) -> Bits:
    """What a version says alone on a model."""
    return bits(serving(live=number), route="live")


@cache
def merged(number: int) -> Bits:
    """What a version says merged into the backbone."""
    model = serving(live=number)
    model.merge("live")
    return bits(model, route="live")


@cache
def bare() -> Bits:
    """What the backbone says without an adapter."""
    return bits(serving(), route=None)


@cache
def mixed(number: int, other: int) -> Bits:
    """Rows of two versions and of none, in one batch."""
    return bits(serving(one=number, two=other), route=["one", "two", None, "one", "two"])


@cache
def known() -> frozenset[Bits]:
    """Every answer that is some adapter's whole answer.

    Asked for before any thread begins: what makes tiny models seeds torch's one generator.
    """
    own = [mixed(number, (number + 1) % 4) for number in range(4)]
    return frozenset([bare(), *map(alone, range(len(VERSIONS))), merged(0), merged(2), *own])


def judged(found: Bits, allowed: tuple[Bits, ...]) -> str | None:
    """None for an allowed answer; another adapter's is wrong, nobody's is torn."""
    if found in allowed:
        return None
    return "wrong" if found in known() else "torn"


def stocked(folder: Path) -> dict[str, Path]:
    """A folder for each version."""
    places = {f"v{number}": folder / f"v{number}" for number in range(len(VERSIONS))}
    for number, place in enumerate(places.values()):
        if not place.exists():
            adapter_file.write(place, pack(version(number), None))
    return places


def use(folder: Path) -> Scene:
    """The default changes between two adapters."""
    model = serving(a=0, b=5).use("a")
    return Scene(
        model,
        lambda thread, dice: judged(bits(model), (alone(0), alone(5))),
        lambda step: model.use("ab"[step % 2]),
        lambda: model.use("a").compact(),
    )


def replace(folder: Path) -> Scene:
    """A live adapter is replaced by others of every method, rank and head; every second one is read from disk."""
    model, places = serving(live=0), [*stocked(folder).values()]
    allowed = tuple(map(alone, range(len(VERSIONS))))

    def swap(step: int) -> None:
        number = step % len(VERSIONS)
        model.replace("live", places[number] if step % 2 else version(number))

    return Scene(
        model,
        lambda thread, dice: judged(bits(model, route="live"), allowed),
        swap,
        lambda: model.replace("live", version(0)).compact(),
    )


def load_and_remove(folder: Path) -> Scene:
    """Others come from disk and go while one serves."""
    model, places = serving(still=5), [*stocked(folder).values()]

    def come_and_go(step: int) -> None:
        model.add("guest", places[step % len(places)])
        model.remove("guest")

    return Scene(
        model,
        lambda thread, dice: judged(bits(model, route="still"), (alone(5),)),
        come_and_go,
        model.compact,
        changes=2,
    )


def one_name_twice(folder: Path) -> Scene:
    """Two threads load an adapter under one name: one of them does, the other is told that the name is taken."""
    model, places, start = serving(still=5), [*stocked(folder).values()], threading.Barrier(2)
    pool, outcomes = ThreadPoolExecutor(2), list[int]()

    def load(step: int) -> int:
        start.wait(WAIT)
        try:
            model.add("same", places[step % len(places)])
        except AdapterError:
            return 0
        return 1

    def both(step: int) -> None:
        outcomes.append(sum(future.result(WAIT) for future in [pool.submit(load, step) for _ in range(2)]))
        model.remove("same")

    return Scene(
        model,
        lambda thread, dice: judged(bits(model, route="still"), (alone(5),)),
        both,
        model.compact,
        changes=2,
        check=lambda: set(outcomes) == {1},
    )


def merge(folder: Path) -> Scene:
    """Two adapters are merged and unmerged in turn; a call of the one that is not merged is refused."""
    model = serving(live=0, still=2)

    def ask(thread: int, dice: Random) -> str | None:
        name, number = dice.choice([("live", 0), ("still", 2)])
        try:
            return judged(bits(model, route=name), (alone(number), merged(number)))
        except MergeError:
            return "refused"

    def change(step: int) -> None:
        if step % 8 == 7:
            model.merged_copy("still")
            return
        model.merge(("live", "still")[step % 2])
        bits(model)  # the merged one's turn
        model.unmerge()

    return Scene(model, ask, change, model.compact, changes=2, check=lambda: bits(model, route=None) == bare())


def disabled(folder: Path) -> Scene:
    """One thread asks the bare backbone, another switches adapters off for itself; the others keep theirs."""
    model = serving(live=0, still=5).use("live")

    def ask(thread: int, dice: Random) -> str | None:
        if thread == 0:
            return judged(bits(model, route=None), (bare(),))
        name, number = dice.choice([("live", 0), ("still", 5)])
        return judged(bits(model, route=name), (alone(number),))

    def off(step: int) -> None:
        with model.routed(None):
            if bits(model) != bare():
                raise AssertionError("an adapter acted inside `routed(None)`")

    return Scene(model, ask, off, model.compact)


def own(folder: Path) -> Scene:
    """Each thread has an adapter of its own: by an argument, by `routed`, or on some rows of a mixed batch."""
    names = {f"n{number}": number for number in range(4)}
    model = serving(**names)

    def ask(thread: int, dice: Random) -> str | None:
        mine, way = f"n{thread}", dice.randrange(3)
        if way == 0:
            return judged(bits(model, route=mine), (alone(thread),))
        if way == 1:
            with model.routed(mine):
                return judged(bits(model), (alone(thread),))
        other = (thread + 1) % 4
        found = bits(model, route=[mine, f"n{other}", None, mine, f"n{other}"])
        return judged(found, (mixed(thread, other),))

    return Scene(model, ask, lambda step: model.use(f"n{step % 4}"), model.compact)


def store(folder: Path) -> Scene:
    """Nine adapters on disk, five resident: they are loaded, evicted, pinned and read anew while they serve."""
    shop = AdapterStore(stocked(folder), resident=5)
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"), store=shop)

    def ask(thread: int, dice: Random) -> str | None:
        number = dice.randrange(len(VERSIONS))
        return judged(bits(model, route=f"v{number}"), (alone(number),))

    def change(step: int) -> None:
        name = f"v{step % len(VERSIONS)}"
        if step % 3:
            shop.refresh(name)
        else:
            shop.pin(name)
            shop.unpin(name)

    def settle() -> None:
        shop.bring([f"v{number}" for number in range(5)])
        model.compact()

    return Scene(model, ask, change, settle, check=lambda: shop.statistics.evictions > 0 and len(shop.resident) <= 5)


SCENES: dict[str, Callable[[Path], Scene]] = {
    make.__name__: make for make in (use, replace, load_and_remove, one_name_twice, merge, disabled, own, store)
}
