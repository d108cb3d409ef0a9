"""A merge beside swaps, and one that breaks off: it is of one whole adapter, or of none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from petune.errors import MergeError, RouteError
from petune.model import merging
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.merging import merge, merged_copy, unmerge
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


def between(monkeypatch: pytest.MonkeyPatch, name: str, work: Callable[[], Any]) -> list[threading.Thread]:
    """Does `work` once, in a thread of its own, when merging first asks for `name`; it may be held up until later."""
    real, done = getattr(merging, name), list[threading.Thread]()

    def meanwhile(*args: Any, **more: Any) -> Any:
        if not done:
            done.append(threading.Thread(target=work))
            done[0].start()
            done[0].join(SOON)
        return real(*args, **more)

    monkeypatch.setattr(merging, name, meanwhile)
    return done


@pytest.mark.parametrize("step", ["copied", "Shell", "replay"])
@torch.no_grad()
def test_a_merged_copy_is_of_one_adapter(bank, monkeypatch, step):
    """Replaced while the copy is made, and its slots filled anew: the copy is the old one or the new one, whole."""
    old = logits(bank, "one")

    def swap() -> None:
        for seed, name in enumerate(("one", "more", "and more")):
            add(bank, name, method("lora"), "single", seed=31 + seed, seated=True)

    swapping = between(monkeypatch, step, swap)
    made, _ = merged_copy(bank, bank.find("one"))
    swapping[0].join(WAIT)
    new = logits(bank, "one")
    assert differ(old, new) > 1e-2
    assert min(differ(made(**INPUTS).logits, whole) for whole in (old, new)) <= 1e-4


@torch.no_grad()
def test_a_merge_is_of_one_adapter(bank, monkeypatch):
    """A replacement that comes in the middle of a merge finds the adapter merged: it is refused, and nothing is
    torn."""
    old, refused = logits(bank, "one"), []

    def swap() -> None:
        try:
            add(bank, "one", method("lora"), "single", seed=31, seated=True)
        except MergeError as error:
            refused.append(error)

    swapping = between(monkeypatch, "replay", swap)
    merge(bank, bank.find("one"))
    swapping[0].join(WAIT)
    assert refused
    assert differ(logits(bank, "one"), old) <= 1e-4
    unmerge(bank)
    assert torch.equal(logits(bank, "one"), old)


def test_a_merge_of_somebody_who_left_is_an_error(bank):
    """Removed while the merge waited: nothing is merged."""
    gone = bank.find("one")
    bank.remove("one")
    with pytest.raises(RouteError, match="no adapter 'one'"):
        merge(bank, gone)
    assert bank.merged is None


@pytest.mark.parametrize("error", [RuntimeError("no memory"), KeyboardInterrupt()])
def test_a_merge_that_breaks_off_leaves_nothing(bank, monkeypatch, error):
    """When its last look at the answers fails, the original bits are back, and calls pass."""
    before, one = snapshot(bank.backbone.model), logits(bank, "one")
    real = merging.replay

    def failing(adapter: Adapter, frame: Any) -> Tensor:
        if frame is None:
            raise error
        return real(adapter, frame)

    monkeypatch.setattr(merging, "replay", failing)
    with pytest.raises(type(error)):
        merge(bank, bank.find("one"))
    assert bank.merged is None
    assert same(snapshot(bank.backbone.model), before)
    assert torch.equal(logits(bank, "one"), one)
