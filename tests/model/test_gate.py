"""The gate: merges wait for calls and calls for merges, nobody waits forever; and modes that several threads borrow."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petune.errors import MergeError, RouteError
from petune.model import merging
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.gate import Gate, changing, running
from petune.model.merging import merge, merged_copy, unmerge
from petune.model.modes import evaluating, modes_kept
from petune.model.running import run
from tests.conformance.subjects import add, batch, differ, method, open_backbone, same, snapshot

WAIT = 20.0
"""Seconds after which a thread that waits is taken for stuck."""
SOON = 0.05
"""Seconds in which somebody who need not wait would be through."""
INPUTS = batch("bert", "single")


@pytest.fixture
def bank() -> Bank:
    """Two LoRA adapters and a prefix that serve."""
    made = Bank(open_backbone("bert"))
    for seed, (name, recipe) in enumerate((("one", "lora"), ("two", "lora"), ("three", "prefix"))):
        add(made, name, method(recipe), "single", seed=seed, seated=True)
    return made


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


@torch.no_grad()
def logits(bank: Bank, route: Any) -> Tensor:
    """The logits under a route."""
    found = run(bank, bank.frame(route), INPUTS).logits
    return torch.stack(found) if isinstance(found, list) else found


def is_waiting(future: Future[Any]) -> bool:
    """Whether somebody is still at work after a while."""
    try:
        future.result(SOON)
    except TimeoutError:
        return True
    return False


# -- merging beside calls ---------------------------------------------------------------------------------------------


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


def between(monkeypatch: pytest.MonkeyPatch, name: str, work: Callable[[], Any]) -> None:
    """Does `work` once, in another thread, when merging first asks for `name`; it may be held up until later."""
    real, done = getattr(merging, name), []

    def meanwhile(*args: Any, **more: Any) -> Any:
        if not done:
            done.append(threading.Thread(target=work))
            done[0].start()
            done[0].join(SOON)
        return real(*args, **more)

    monkeypatch.setattr(merging, name, meanwhile)


@pytest.mark.parametrize("step", ["copied", "Shell", "replay"])
@torch.no_grad()
def test_a_merged_copy_is_of_one_adapter(bank, monkeypatch, step):
    """Replaced while the copy is made, and its slots filled anew: the copy is the old one or the new one, whole."""
    old = logits(bank, "one")

    def swap() -> None:
        for seed in (31, 32, 33):
            add(bank, "one", method("lora"), "single", seed=seed, seated=True)

    between(monkeypatch, step, swap)
    made, _ = merged_copy(bank, bank.find("one"))
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

    between(monkeypatch, "replay", swap)
    merge(bank, bank.find("one"))
    for _ in range(200):
        if refused:
            break
        threading.Event().wait(0.01)
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


# -- the gate itself --------------------------------------------------------------------------------------------------


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


def test_a_copy_has_a_gate_of_its_own(bank, pool):
    """A held call on the original does not hold a merge of the copy up."""
    twin = copy.deepcopy(bank)
    held = Held(bank, pool)
    pool.submit(merge, twin, twin.find("one")).result(WAIT)
    assert twin.merged == "one" and bank.merged is None
    held.go()


# -- modes ------------------------------------------------------------------------------------------------------------


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
