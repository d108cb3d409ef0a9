"""Adapters that come, go and are replaced while texts are asked: every answer is one whole adapter's, labels included.

Answers on tensors, to the bit, beside every kind of change: tests/faults/test_threads.py.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from petune import AdaptedModel
from petune.errors import RouteError
from tests.conformance.subjects import differ
from tests.versions import INPUTS, LOAD, TEXTS, VERSIONS, WAIT, probabilities, said_by, serving, version


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Threads take turns a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def under_load(model: AdaptedModel, pool: ThreadPoolExecutor, ask: Callable[[random.Random], str | None],
               disturb: list[Callable[[int], Any]]) -> int:  # fmt: skip
    """Three threads ask and others disturb for a while; what was wrong fails the test. The number of answers."""
    end, wrong, asked = time.monotonic() + LOAD, list[str](), [0, 0, 0]

    def asking(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < end and not wrong:
            complaint = ask(draw)
            asked[number] += 1
            if complaint:
                wrong.append(complaint)

    def disturbing(work: Callable[[int], Any]) -> None:
        step = 0
        while time.monotonic() < end and not wrong:
            work(step)
            step += 1

    futures = [pool.submit(asking, number) for number in range(3)] + [pool.submit(disturbing, it) for it in disturb]
    for future in futures:
        future.result(WAIT)
    assert not wrong, wrong
    assert all(asked)
    return sum(asked)


def test_no_answer_is_torn_while_others_replace_add_remove_and_compact(pool):
    """Every answer of a call is one whole version's: weights, head and labels, the same for all its rows."""
    model = serving(live=0, still=5)
    for number in range(len(VERSIONS)):
        probabilities(number)

    def ask(draw: random.Random) -> str | None:
        if draw.random() < 0.3:
            answers = model.predict(TEXTS, adapters=["live", "still", "live", "live", "still"])
            live = {answers[row].split()[0] for row in (0, 2, 3)}
            return None if len(live) == 1 and all(answers[row].startswith("v5") for row in (1, 4)) else f"{answers}"
        if draw.random() < 0.4:
            rows = model.predict_proba(TEXTS, adapters="live")
            return None if said_by(rows, [0, 1, 2, 3, 4]) is not None else f"alone {rows}"
        rows = model.predict_proba(TEXTS, adapters=["live", "live", "still", "live", "still"], batch_size=2)
        torn = said_by([rows[0], rows[1], rows[3]], [0, 1, 3]) is None or said_by([rows[2], rows[4]], [2, 4]) != 5
        return f"mixed {rows}" if torn else None

    def swap(step: int) -> None:
        model.replace("live", version(step % len(VERSIONS)))

    def come_and_go(step: int) -> None:
        model.add(f"guest{step % 3}", version((3 * step) % len(VERSIONS)))
        if step % 3 == 2:
            for guest in range(3):
                model.remove(f"guest{guest}")
        if step % 5 == 4:
            model.compact()

    under_load(model, pool, ask, [swap, come_and_go])


def test_calls_on_tensors_keep_what_they_began_with(pool):
    """A call whose adapter is removed, and whose slots are filled anew, in its middle gives its own answer; a call
    that begins after the removal is an error."""
    model, other = serving(live=0, still=5), serving(live=0, still=5)
    route = ["live", "still", None, "live", "still"]
    with torch.no_grad():
        wanted = {"live": [other(**INPUTS, route="live").logits], "mixed": other(**INPUTS, route=route).logits}

    def ask(draw: random.Random) -> str | None:
        kind = draw.choice(["live", "mixed"])
        try:
            with torch.no_grad():
                found = model(**INPUTS, route="live" if kind == "live" else route).logits
        except RouteError as error:
            return None if "live" in str(error) else str(error)
        found = [found] if kind == "live" else found
        pairs = [pair for pair in zip(found, wanted[kind], strict=True) if pair[0] is not None]
        return None if all(a.shape == b.shape and differ(a, b) <= 1e-4 for a, b in pairs) else f"{kind}"

    def swap(step: int) -> None:
        model.remove("live")
        model.add("other", version(8))
        model.add("live", version(0))
        model.remove("other")

    assert under_load(model, pool, ask, [swap]) > 3


@pytest.mark.parametrize("block", [0, 1])
def test_an_exception_in_one_call_touches_no_other(pool, block):
    """Some calls fail in the middle of the backbone: theirs is the only trace; other threads, the next call of the
    same thread and merges go on (law 19)."""
    model, broken = serving(live=1, still=0), threading.local()
    module = model.backbone.model.encoder.layer[block].output.dense

    def fail(*_: Any) -> None:
        if getattr(broken, "now", False):
            raise KeyError("a failure inside")

    hook = module.register_forward_hook(fail, prepend=True)

    def ask(draw: random.Random) -> str | None:
        name, number = draw.choice([("live", 1), ("still", 0)])
        broken.now = draw.random() < 0.4
        try:
            if broken.now:
                with pytest.raises(KeyError):
                    model.predict(TEXTS, adapters=["live", "still", "live", "still", "live"])
        finally:
            broken.now = False
        rows = model.predict_proba(TEXTS, adapters=name)
        return None if said_by(rows, [0, 1, 2, 3, 4]) == number else f"{name} {rows}"

    assert under_load(model, pool, ask, []) > 3
    hook.remove()
    pool.submit(model.merge, "still").result(WAIT)
    model.unmerge()
