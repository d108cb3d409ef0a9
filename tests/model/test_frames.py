"""Frames: repeated and left-out rows, prefixes of many lengths, and routes per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from petune.errors import RouteError
from petune.model.bank import Bank
from petune.model.routing import entered
from tests.conformance.subjects import batch, differ, method, open_backbone
from tests.conformance.test_routing import crowd
from tests.model.asking import INPUTS, UNPREFIXED, crowded, routed, seat, solo, states


@torch.no_grad()
@pytest.mark.parametrize("seated", [True, False], ids=["seated", "training"])
def test_a_frame_for_repeated_rows(seated):
    """`expanded` gives each repeated row its adapter, also where the whole batch has one."""
    bank = crowd("bert", seated=seated)
    route = ["short", None, "lora", "long", "houlsby"]
    wide = {name: tensor.repeat_interleave(3, 0) for name, tensor in INPUTS.items()}
    for around in (route, ["lora"] * 5, "lora"):
        with entered(bank.frame(around)):
            alone = states(bank)
        with entered(bank.frame(around).expanded(3)) as frame:
            assert differ(states(bank, wide), alone.repeat_interleave(3, 0)) <= 1e-5
        assert frame.batch == (None if isinstance(around, str) else 15)


@torch.no_grad()
def test_a_frame_of_some_of_its_adapters():
    """`only` keeps the rows of the given adapters; the others see the bare backbone."""
    for seated in (True, False):
        bank = crowd("bert", seated=seated)
        frame = bank.frame(["short", "ada", "lora", "long", "lora"])
        with entered(bank.frame([None, "ada", "lora", None, "lora"])):
            wanted = states(bank)
        with entered(frame.only([group for group in frame.groups if group.adapter.name in ("lora", "ada")])):
            assert differ(states(bank), wanted) <= 1e-6


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "bart", "modernbert"])
@torch.no_grad()
def test_prefixes_of_many_lengths_in_one_batch(family):
    """Lengths 1 to 9, some rows with none, some adapters only in some blocks: each row as it is alone."""
    inputs = batch(family, "single")
    lengths: Mapping[str, dict[str, Any]] = {
        "one": {"length": 1}, "three": {"length": 3}, "four": {"length": 4}, "nine": {"length": 9},
        "top": {"length": 3, "top": 1},
    }  # fmt: skip
    bank = Bank(open_backbone(family))
    for index, (name, knob) in enumerate(lengths.items()):
        seat(bank, name, method("prefix", **knob), "single", seed=index)
    alone = {name: solo(bank, name, inputs) for name in lengths}
    for route in (
        ["one", "three", "four", "nine", "top"],
        ["three", "three", "three", "three", "top"],
        ["three", None, "nine", None, None],
        ["top", "top", "one", "one", "one"],
        ["three", "four", "three", "four", "three"],
        ["top"] * 5,
    ):
        for row, (name, found) in enumerate(zip(route, routed(bank, route, inputs), strict=True)):
            if name is not None:
                assert differ(found, alone[name][row]) <= 1e-5, (route, row)


def packed(names: Sequence[str | None], length: int) -> tuple[list[list[str | None]], Tensor]:
    """Two rows of packed pieces of three tokens each, the names in turn, and the mask that keeps pieces apart."""
    pieces = [[names[(place // 3 + row) % len(names)] for place in range(length)] for row in range(2)]
    number = torch.arange(length) // 3
    mask = (number[:, None] == number[None, :]).expand(2, 1, length, length)
    return pieces, mask


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@torch.no_grad()
def test_packed_tokens_have_their_own_adapters(family):
    """With attention inside of each piece only, every token's state is that of its adapter alone, rows with none
    the bare backbone's."""
    bank, length = crowded(family), 12
    names = [name for name in UNPREFIXED if not bank.contents.seats[name].loose] + [None]
    ids = torch.randint(5, 90, (2, length), generator=torch.Generator().manual_seed(1))
    route, mask = packed(names, length)
    inputs = {"input_ids": ids, "attention_mask": mask & torch.ones_like(mask).tril() if family != "bert" else mask}
    alone = {}
    for name in names:
        with entered(bank.frame(name)):
            alone[name] = states(bank, inputs)
    for given in (route, [tuple(row) for row in route], [[names[0]] * length, [None] * length]):
        with entered(bank.frame(given)):
            found = states(bank, inputs)
        for row in range(2):
            for token in range(length):
                assert differ(found[row, token], alone[given[row][token]][row, token]) <= 1e-5
    assert differ(alone[names[0]], alone[names[1]]) > 1e-2


@torch.no_grad()
def test_a_token_each_is_a_row_each():
    """A route per token of one-token rows is the same as a route per row."""
    bank = crowded("llama")
    inputs = {"input_ids": torch.tensor([[7], [9], [11]])}
    with entered(bank.frame([["lora"], ["houlsby"], [None]])):
        found = states(bank, inputs)
    with entered(bank.frame(["lora", "houlsby", None])):
        assert differ(found, states(bank, inputs)) == 0


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ([["lora", "lora"], ["lora"]], "one length"),
        ([["lora", "lora"], []], "one length"),
        ([[], []], "one length"),
        ([["lora"], "lora"], "one length"),
        (["lora", ["lora"]], "cannot hold"),
        ([["lora", 3]], "cannot hold"),
        ([["lora", "short"]], "by token"),
        ([["lora", "nobody"]], "no adapter 'nobody'"),
    ],
)
def test_odd_routes_per_token_are_refused(route, says):
    """Ragged rows, mixtures of the two forms, odd entries, prefixes, and unknown names: before any work."""
    bank = crowded()
    with pytest.raises(RouteError, match=says):
        bank.frame(route)


def test_an_adapter_in_training_is_not_routed_by_token():
    """Its layer is called on rows."""
    bank = crowd("bert", seated=False)
    with pytest.raises(RouteError, match="by token"):
        bank.frame([["lora", None]])


@torch.no_grad()
@pytest.mark.parametrize("length", [3, 5, 13])
def test_a_route_per_token_of_another_length_is_refused(length):
    """Tokens that are not those of the batch meet no wrong adapter; the maps say so."""
    bank = crowded()
    with entered(bank.frame([["lora", "ada"] * 6, [None] * 12])), pytest.raises(RouteError, match="leading axis"):
        states(bank, {"input_ids": torch.ones(2, length, dtype=torch.long)})
