"""A seated crowd on a tiny BERT, and short ways to ask it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from petune.model.bank import Bank
from petune.model.running import run
from tests.conformance.subjects import add, batch, method, open_backbone
from tests.conformance.test_routing import crowd

INPUTS = batch("bert", "single")
ALL = ("lora", "wider", "ada", "houlsby", "parallel", "probe", "short", "long")
"""The adapters of `crowd`."""
UNPREFIXED = ALL[:6]

seat = partial(add, seated=True)


@cache
def _crowd(family: str) -> Bank:
    return crowd(family, seated=True)


def crowded(family: str = "bert") -> Bank:
    """The seated crowd; a copy, because making it costs more."""
    return copy.deepcopy(_crowd(family))


@torch.no_grad()
def routed(bank: Bank, route: Sequence[str | None], inputs: Mapping[str, Tensor] = INPUTS) -> list[Any]:
    """The logits of each row."""
    return list(run(bank, bank.frame(route), inputs).logits)


@torch.no_grad()
def solo(bank: Bank, name: str, inputs: Mapping[str, Tensor] = INPUTS) -> Tensor:
    """The logits of one adapter for all rows."""
    found: Tensor = run(bank, bank.frame(name), inputs).logits
    return found


def states(bank: Bank, inputs: Mapping[str, Tensor] = INPUTS, **more: Any) -> Tensor:
    """The backbone's last hidden state under the frame around."""
    found: Tensor = bank.backbone.model(**inputs, **more).last_hidden_state
    return found


def trio() -> Bank:
    """Two LoRA adapters, `one` and `two`, and a prefix, `three`, that serve."""
    made = Bank(open_backbone("bert"))
    for seed, (name, recipe) in enumerate((("one", "lora"), ("two", "lora"), ("three", "prefix"))):
        seat(made, name, method(recipe), "single", seed=seed)
    return made


@torch.no_grad()
def logits(bank: Bank, route: Any) -> Tensor:
    """The logits under a route."""
    found = run(bank, bank.frame(route), INPUTS).logits
    return torch.stack(found) if isinstance(found, list) else found
