"""The gate: merges wait for calls and calls for merges; a merge is of one whole adapter."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from petune.errors import MergeError
from petune.model.bank import Bank
from petune.model.merging import merge, merged_copy, unmerge
from petune.model.running import run
from tests.conformance.subjects import add, differ, method, same, snapshot
from tests.model.asking import INPUTS, logits, trio

WAIT = 20.0
"""Seconds after which a thread that waits is taken for stuck."""
SOON = 0.05
"""Seconds in which somebody who need not wait would be through."""


@pytest.fixture
def bank() -> Bank:
    """Two LoRA adapters and a prefix that serve."""
    return trio()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(6) as made:
        yield made


class Held:
    """A call that stops inside of the backbone until it is let go."""

    def __init__(self, bank: Bank, pool: ThreadPoolExecutor, route: Any = "one") -> None:
        self._inside, self._go = threading.Event(), threading.Event()
        self._hook = bank.backbone.model.encoder.layer[0].register_forward_hook(self._stop)
        self.answer: Future[Tensor] = pool.submit(logits, bank, route)
        assert self._inside.wait(WAIT)
        self._hook.remove()

    def _stop(self, *_: Any) -> None:
        self._inside.set()
        assert self._go.wait(WAIT)

    def go(self) -> Tensor:
        """Lets it end."""
        self._go.set()
        return self.answer.result(WAIT)


def is_waiting(future: Future[Any]) -> bool:
    """Whether somebody is still at work after a while."""
    try:
        future.result(SOON)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("route", ["one", "two", "three", ["one", "two", None, "three", "two"]])
def test_a_merge_waits_for_a_running_call(bank, pool, route):
    """The weights do not change under a call, whatever its route: it ends with the bits that it would have given."""
    if isinstance(route, str):
        wanted = logits(bank, route)
    else:
        with torch.no_grad():
            wanted = run(bank, bank.frame(route), INPUTS).last_hidden_state
    before = snapshot(bank.backbone.model)
    inside, leave = threading.Event(), threading.Event()

    def stop(*_: Any) -> None:
        inside.set()
        assert leave.wait(WAIT)

    @torch.no_grad()
    def call() -> Tensor:
        output = run(bank, bank.frame(route), INPUTS)
        return output.logits if isinstance(route, str) else output.last_hidden_state

    hook = bank.backbone.model.encoder.layer[0].register_forward_hook(stop)
    answer = pool.submit(call)
    assert inside.wait(WAIT)
    merged = pool.submit(merge, bank, bank.find("two"))
    assert is_waiting(merged)
    assert same(snapshot(bank.backbone.model), before)
    hook.remove()
    leave.set()
    assert torch.equal(answer.result(WAIT), wanted)
    merged.result(WAIT)
    assert bank.merged == "two"
    unmerge(bank)
    assert same(snapshot(bank.backbone.model), before)


def test_new_calls_wait_while_somebody_wants_to_merge(bank, pool):
    """A merge that waits is not starved: calls that begin later wait for it, and then see what it made of them."""
    one, two = logits(bank, "one"), logits(bank, "two")
    held = Held(bank, pool)
    merged = pool.submit(merge, bank, bank.find("two"))
    assert is_waiting(merged)
    later = [pool.submit(logits, bank, name) for name in ("two", "one")]
    assert all(map(is_waiting, later))
    assert torch.equal(held.go(), one)
    merged.result(WAIT)
    assert differ(later[0].result(WAIT), two) <= 1e-4
    with pytest.raises(MergeError, match="another route"):
        later[1].result(WAIT)
    unmerge(bank)
    assert torch.equal(logits(bank, "one"), one)


def test_unmerging_waits_too(bank, pool):
    """A call on the merged weights ends on the merged weights."""
    merge(bank, bank.find("one"))
    merged = logits(bank, "one")
    held = Held(bank, pool)
    done = pool.submit(unmerge, bank)
    assert is_waiting(done)
    assert torch.equal(held.go(), merged)
    done.result(WAIT)
    assert bank.merged is None


def test_a_merge_from_inside_a_call_is_an_error(bank):
    """It would wait for itself: merging, unmerging, from a hook; the call goes on, and so do later ones."""
    wanted, caught = logits(bank, "one"), []

    def attempt(*_: Any) -> None:
        for work in (lambda: merge(bank, bank.find("two")), lambda: unmerge(bank)):
            with pytest.raises(MergeError, match="running here"):
                work()
            caught.append(work)

    hook = bank.backbone.model.encoder.layer[0].register_forward_hook(attempt)
    assert torch.equal(logits(bank, "one"), wanted)
    assert torch.equal(logits(bank, "one"), wanted)
    hook.remove()
    assert len(caught) == 4
    merge(bank, bank.find("two"))
    unmerge(bank)


def test_a_call_inside_a_call_passes_while_a_merge_waits(bank, pool):
    """A hook that asks the model again is let through, or nobody would ever move."""
    wanted = [logits(bank, "one"), logits(bank, "two")]
    nested = []

    def ask(*_: Any) -> None:
        hook.remove()
        merged.append(pool.submit(merge, bank, bank.find("two")))
        assert is_waiting(merged[0])
        nested.append(logits(bank, "two"))

    merged: list[Future[Any]] = []
    hook = bank.backbone.model.encoder.layer[0].register_forward_hook(ask)
    assert torch.equal(logits(bank, "one"), wanted[0])
    assert torch.equal(nested[0], wanted[1])
    merged[0].result(WAIT)


def test_frames_live_through_merges(bank):
    """A frame made before a merge, or while merged, is used after it: the answer of its adapter, or an error."""
    one, two = logits(bank, "one"), logits(bank, "two")
    early, rows = bank.frame("one"), bank.frame(["one", "two", None, "one", "two"])
    other = bank.frame("two")

    @torch.no_grad()
    def answer(frame: Any) -> Any:
        return run(bank, frame, INPUTS).logits

    mixed = answer(rows)
    merge(bank, bank.find("one"))
    assert differ(answer(early), one) <= 1e-4
    late = bank.frame("one")
    for frame in (other, rows):
        with pytest.raises(MergeError, match="another route"):
            answer(frame)
    unmerge(bank)
    assert torch.equal(answer(late), one)
    assert torch.equal(answer(early), one)
    assert torch.equal(answer(other), two)
    for now, then in zip(answer(rows), mixed, strict=True):
        assert now is then is None or torch.equal(now, then)


def test_another_bank_on_the_same_backbone_waits_and_refuses_as_well(bank, pool):
    """The gate belongs to the model: a merge by one tuner waits for the calls of another, and stops the other's."""
    other = Bank(bank.backbone)
    add(other, "theirs", method("lora"), "single", seed=9, seated=True)
    theirs = logits(other, "theirs")
    held = Held(other, pool, "theirs")
    merged = pool.submit(merge, bank, bank.find("one"))
    assert is_waiting(merged)
    assert torch.equal(held.go(), theirs)
    merged.result(WAIT)
    with pytest.raises(MergeError, match="'one' is merged"):
        logits(other, "theirs")
    with pytest.raises(MergeError):
        unmerge(other)
    unmerge(bank)
    assert torch.equal(logits(other, "theirs"), theirs)


def test_a_merged_copy_is_made_while_calls_run(bank, pool):
    """A held call is not waited for, others pass, and the copy answers like the adapter."""
    one, two = logits(bank, "one"), logits(bank, "two")
    held = Held(bank, pool)
    made, receipt = pool.submit(merged_copy, bank, bank.find("two")).result(WAIT)
    assert torch.equal(pool.submit(logits, bank, "two").result(WAIT), two)
    assert torch.equal(held.go(), one)
    with torch.no_grad():
        assert differ(made(**INPUTS).logits, two) <= 1e-4
    assert receipt.max_logit_difference <= receipt.tolerance
    assert bank.merged is None


def test_a_copy_has_a_gate_of_its_own(bank, pool):
    """A held call on the original does not hold a merge of the copy up."""
    twin = copy.deepcopy(bank)
    held = Held(bank, pool)
    pool.submit(merge, twin, twin.find("one")).result(WAIT)
    assert twin.merged == "one" and bank.merged is None
    held.go()
