"""The gate by itself, and modes that several threads borrow: nobody waits forever, and everything comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch import nn

from petune.model.gate import Gate, changing, running
from petune.model.modes import evaluating, modes_kept

WAIT = 20.0
"""Seconds after which a thread that waits is taken for stuck."""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(6) as made:
        yield made


def test_a_wait_that_is_broken_off_opens_the_gate_again(monkeypatch):
    """Ctrl-C while a merge waits for a call that hangs: calls do not hang behind a merge that is gone."""
    gate = Gate()
    gate.enter()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gate._changed, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt), gate.alone():
            raise AssertionError("nobody is alone here")
    thread = threading.Thread(target=gate.enter, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive()
    gate.leave()
    gate.leave()
    with gate.alone():
        pass


def test_an_exception_inside_leaves_the_gate():
    """Of a call, or of a change."""
    module = nn.Linear(1, 1)
    for around in (running, changing):
        with pytest.raises(KeyError), around(module):
            raise KeyError("inside")
    with changing(module):
        pass
    with running(module), running(module):
        pass
    with changing(module):
        pass


def test_changes_come_one_after_the_other(pool):
    """Many threads that call and change: never a change beside anything, and everybody gets through."""
    module, state, wrong = nn.Linear(1, 1), {"calls": 0, "changes": 0}, []
    lock = threading.Lock()

    def work(number: int) -> None:
        for _ in range(40):
            kind = "changes" if number % 3 == 0 else "calls"
            with changing(module) if kind == "changes" else running(module):
                with lock:
                    state[kind] += 1
                    if state["changes"] > 1 or (state["changes"] and state["calls"]):
                        wrong.append(dict(state))
                with lock:
                    state[kind] -= 1

    for future in [pool.submit(work, number) for number in range(6)]:
        future.result(WAIT)
    assert not wrong


def test_modes_come_back_when_the_last_borrower_ends():
    """Two threads borrow the same modules; whoever ends first does not switch dropout on under the other."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[2].eval()
    before = [module.training for module in model.modules()]
    first, second = evaluating(model), evaluating(model, model[1])
    for borrowed in (first, second):
        borrowed.__enter__()
        assert not any(module.training for module in model.modules())
    first.__exit__(None, None, None)
    assert not any(module.training for module in model.modules())
    second.__exit__(None, None, None)
    assert [module.training for module in model.modules()] == before


def test_modes_come_back_after_exceptions():
    """Of the body, in one of several threads; a module that is named twice is borrowed once."""
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    with evaluating(model):
        with pytest.raises(KeyError), evaluating(model[0], model):
            raise KeyError("inside")
        assert not model[0].training
    assert all(module.training for module in model.modules())
    with pytest.raises(KeyError), modes_kept(model):
        model.eval()
        raise KeyError("inside")
    assert all(module.training for module in model.modules())


def test_many_threads_borrow_the_same_modes(pool):
    """Under load nobody sees train mode inside, and it is back in the end."""
    model, seen = nn.Sequential(*(nn.Dropout() for _ in range(20))), []

    def work(_: int) -> None:
        for _ in range(60):
            with evaluating(model):
                seen.append(any(module.training for module in model.modules()))

    list(pool.map(work, range(6)))
    assert not any(seen)
    assert all(module.training for module in model.modules())
