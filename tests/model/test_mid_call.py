"""Residents that come and go in the middle of a call, of one thread or of several."""

from __future__ import annotations

import contextvars
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from petune.errors import MergeError
from petune.model.bank import Bank
from petune.model.merging import merge, unmerge
from petune.model.routing import entered
from tests.conformance.subjects import differ, method, open_backbone
from tests.model.asking import INPUTS, crowded, seat, solo, states


@pytest.mark.parametrize("recipe", [("bottleneck", {"style": "parallel"}), ("lora", {}), ("prefix", {})], ids=str)
@pytest.mark.parametrize("where", ["encoder.layer.0.intermediate.dense", "encoder.layer.0.attention.self.key"])
@pytest.mark.parametrize("prepend", [False, True])
def test_residents_may_come_and_go_in_the_middle_of_a_call(recipe, where, prepend):
    """At the very module where another adapter is put on or taken off, a running call goes on with its own bits."""
    bank = Bank(open_backbone("bert"))
    seat(bank, "mine", method("lora", targets=("query", "ffn_output")), "single")
    wanted = solo(bank, "mine")
    module = bank.backbone.model.get_submodule(where)

    def come(*_: Any) -> None:
        seat(bank, "other", method(recipe[0], **recipe[1]), "single", seed=3)

    def go(*_: Any) -> None:
        bank.remove("other")

    # `go` is hooked first, so that the tap's own hooks come after it in the very call in which they are taken off.
    for register in (module.register_forward_hook, module.register_forward_pre_hook):
        for action in (go, come):
            if action is go:
                hook = register(go, prepend=prepend)
                come()
            else:
                hook = register(come, prepend=prepend)
            assert differ(solo(bank, "mine"), wanted) == 0
            hook.remove()
            assert ("other" in bank.residents) is (action is come)
            bank.residents.get("other") and go()


def test_tasks_that_share_a_context_do_not_mix_their_inputs():
    """Threads started with a copy of one context share its frame; at sites with two modules each sees its own x."""
    bank, together = Bank(open_backbone("bert")), threading.Barrier(2)
    seat(bank, "mine", method("bottleneck", style="parallel"), "single")
    wanted = [states_of(bank, "mine", row) for row in (0, 1)]

    def meet(*_: Any) -> None:
        together.wait(20)

    bank.backbone.model.encoder.layer[0].intermediate.register_forward_hook(meet)
    with entered(bank.frame("mine")), ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(contextvars.copy_context().run, one_row, bank, row) for row in (0, 1)]
        found = [future.result(30) for future in futures]
    assert [differ(*pair) for pair in zip(found, wanted, strict=True)] == [0, 0]


@torch.no_grad()
def one_row(bank: Bank, row: int) -> Tensor:
    """The hidden states of one row under the frame around."""
    return states(bank, {name: tensor[row : row + 1] for name, tensor in INPUTS.items()})


def states_of(bank: Bank, name: str, row: int) -> Tensor:
    """The hidden states of one row under an adapter."""
    with entered(bank.frame(name)):
        return one_row(bank, row)


def test_modules_called_inside_a_route_refuse_after_a_merge():
    """The merged weights and the adapter's own change would both act: that is an error, whatever the adapter."""
    bank = crowded()
    for name in ("lora", "short", "houlsby"):
        with entered(bank.frame(name)):
            merge(bank, bank.find("lora"))
            with pytest.raises(MergeError, match="merged"):
                states(bank)
            unmerge(bank)
            states(bank)


def test_two_banks_switch_the_attention_of_one_backbone_in_two_threads():
    """Prefixes come and go on both: each is there when it is asked, and in the end the setting is the first one."""
    backbone, start = open_backbone("bert"), threading.Barrier(2)
    banks = [Bank(backbone), Bank(backbone)]
    adapters = [seat(bank, "p", method("prefix"), "single", seed=seed).settled() for seed, bank in enumerate(banks)]
    wanted = [solo(bank, "p") for bank in banks]
    for bank in banks:
        bank.remove("p")

    def work(bank: Bank, adapter: Any, want: Tensor) -> bool:
        start.wait(20)
        right = []
        for _ in range(12):
            bank.seat(adapter)
            right.append(torch.equal(solo(bank, "p"), want))
            bank.remove("p")
        return all(right)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(work, banks, adapters, wanted))
    finally:
        sys.setswitchinterval(before)
    assert backbone.model.config._attn_implementation == "sdpa"
