"""The bank: what a batch costs, who holds a seat, and who may have none."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from petune.errors import AdapterError
from petune.methods.base import AdapterLayer
from petune.model.bank import Bank
from petune.model.routing import entered
from petune.model.running import run
from petune.model.stacks import Stack
from tests.conformance.subjects import add, differ, method, open_backbone
from tests.model.asking import ALL, INPUTS, crowded, routed, seat, solo, states


class Counted(TorchDispatchMode):
    """Counts the operations that torch carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("recipe", "sized"),
    [
        (("lora", {}), "rank"),
        (("lora", {"rslora": True}), "rank"),
        (("adalora", {}), None),
        (("bottleneck", {"style": "houlsby"}), "width"),
        (("bottleneck", {"style": "pfeiffer"}), "width"),
        (("bottleneck", {"style": "parallel", "scale": 4.0}), "width"),
        (("prefix", {}), "length"),
    ],
    ids=["lora", "rslora", "adalora", "houlsby", "pfeiffer", "parallel", "prefix"],
)
def test_a_batch_of_many_adapters_costs_the_operations_of_few(recipe, sized):
    """2, 4, 16 or 32 distinct adapters, their inner sizes mixed: the backbone's forward does the same number of
    operations, and calls no adapter's layer."""
    bank = Bank(open_backbone("bert"))
    for index in range(33):
        size = {sized: 5 + index % 4} if sized else {}
        seat(bank, f"a{index}", method(recipe[0], **recipe[1], **size), "single", seed=index)
        for layer in bank.find(f"a{index}").body.layers.values():
            layer.forward = None  # type: ignore[assignment]
    rows = {name: tensor[:1].expand(32, -1).contiguous() for name, tensor in INPUTS.items()}
    counts = []
    for distinct in (2, 4, 16, 32):
        frame = bank.frame([f"a{index * 7 % distinct}" for index in range(32)])  # in no order that helps
        with torch.no_grad(), entered(frame), Counted() as counted:
            states(bank, rows)
        counts.append(counted.count)
    assert len(set(counts)) == 1, counts


@pytest.mark.parametrize("recipe", ["lora", "adalora", "bottleneck", "prefix"])
def test_rows_in_the_order_of_their_slots(recipe):
    """Whether the rows' adapters lie side by side in the stacks, backwards or apart, the answers are the same."""
    bank, sizes = Bank(open_backbone("bert")), {"lora": "rank", "bottleneck": "width", "prefix": "length"}
    for index in range(7):
        size = {sizes[recipe]: 5 + index % 3} if recipe in sizes else {}
        seat(bank, f"a{index}", method(recipe, **size), "single", seed=index)
    bank.remove("a5")
    alone = {name: solo(bank, name) for name in bank.residents}
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (1, 2, 3, 4, 6), (2, 3, 4, 2, 3), (6, 0, 6, 1, 6)):
        route = [f"a{index}" for index in order]
        for row, found in enumerate(routed(bank, route)):
            assert differ(found, alone[route[row]][row]) <= 1e-5


@pytest.mark.parametrize("name", ALL)
def test_a_slot_is_not_reused_while_a_call_holds_it(name):
    """A frame made before its adapter was removed, others took its room, and stacks and table grew, gives the bits
    that it would have given at once: alone, in a mixed batch, and again."""
    bank = crowded()
    mixed: list[str | None] = [name, None, "wider" if name != "wider" else "lora", name, None]
    frames = [bank.frame(name), bank.frame(mixed)]
    wanted = [solo(bank, name), routed(bank, mixed)]
    recipe = bank.find(name).method
    bank.remove(name)
    for index in range(9):
        seat(bank, f"new{index}", recipe, "single", seed=100 + index)
    for index in range(5):
        bank.remove(f"new{index}")
    bank.compact()
    for _ in range(2):
        with torch.no_grad():
            assert differ(run(bank, frames[0], INPUTS).logits, wanted[0]) == 0
            found = run(bank, frames[1], INPUTS).logits
        for row, want in zip(found, wanted[1], strict=True):
            assert (row is None and want is None) or differ(row, want) == 0


def test_a_slot_is_given_back_when_nobody_holds_it():
    """Removed, but held by a frame: the room stays in use; the frame gone: the next adapter takes it."""
    bank = Bank(open_backbone("bert"))
    for index in range(2):
        seat(bank, f"a{index}", method("lora"), "single", seed=index)
    room, frame = bank.allocated_bytes, bank.frame(["a0", None])
    bank.remove("a0")
    assert bank.used_bytes == room
    del frame
    gc.collect()
    assert bank.used_bytes == room // 2
    seat(bank, "a2", method("lora"), "single", seed=2)
    assert (bank.used_bytes, bank.allocated_bytes) == (room, room)


def test_sites_are_left_when_the_last_call_on_them_is_over():
    """A removed adapter's hooks stay as long as a frame holds it, and go with the next change after that."""
    bank = Bank(open_backbone("bert"))
    seat(bank, "a", method("lora", targets=("query",)), "single")
    seat(bank, "p", method("prefix"), "single")
    frame = bank.frame(["a", "p", None, "p", "a"])
    bank.remove("a")
    bank.remove("p")
    assert bank.taps and bank.attention
    del frame
    gc.collect()
    seat(bank, "b", method("lora", targets=("value",)), "single")
    bank.remove("b")
    assert not bank.taps and not bank.attention
    assert not any(module._forward_hooks for module in bank.backbone.model.modules())
    assert bank.backbone.model.config._attn_implementation == "sdpa"


def test_a_failure_in_the_middle_of_an_add_changes_nothing(monkeypatch):
    """Out of memory at the fifth site: no slot, hook or name of the new adapter is left, the old ones answer on."""
    bank = crowded()
    wanted, used, taps = {name: solo(bank, name) for name in ALL}, bank.used_bytes, set(bank.taps)
    put, calls = Stack.put, []

    def failing(stack: Stack, layer: AdapterLayer) -> int:
        calls.append(layer)
        if len(calls) == 5:
            raise MemoryError("no room")
        return put(stack, layer)

    for name, recipe in (("new", method("lora", rank=32)), ("lora", method("lora", rank=16))):
        calls.clear()
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(Stack, "put", failing)
            seat(bank, name, recipe, "single")
        gc.collect()
        assert bank.used_bytes == used
        assert set(bank.taps) == taps
    assert tuple(bank.residents) == ALL
    for name in ALL:
        assert differ(solo(bank, name), wanted[name]) == 0
    seat(bank, "new", method("lora", rank=32), "single", seed=1)
    assert differ(solo(bank, "lora"), wanted["lora"]) == 0


def test_deep_copies_grow_apart():
    """A copy answers with the same bits; what is added, removed and compacted on either side does not reach the
    other."""
    bank = crowded()
    route = ["lora", "short", "houlsby", "long", "parallel"]
    wanted, one = routed(bank, route), solo(bank, "ada")
    twin = copy.deepcopy(bank)
    for index in range(9):
        seat(bank, f"more{index}", method("lora", rank=5), "single", seed=index)
    bank.compact()
    for name in ALL:
        bank.remove(name)
    seat(twin, "more", method("lora", rank=3), "multi", seed=77)
    twin.compact()
    seat(twin, "even more", method("lora", rank=3), "multi", seed=78)
    assert all(differ(row, want) == 0 for row, want in zip(routed(twin, route), wanted, strict=True))
    assert differ(solo(twin, "ada"), one) == 0
    assert set(twin.residents) == {*ALL, "more", "even more"}


def test_a_whole_model_is_no_resident():
    """Full fine-tuning has a private copy; the bank says how to use it."""
    bank = Bank(open_backbone("bert"))
    adapter = add(bank, "whole", method("full"), "single")
    for adding in (bank.add, bank.seat):
        with pytest.raises(AdapterError, match="full fine-tuning"):
            adding(adapter)
    assert not bank.residents
