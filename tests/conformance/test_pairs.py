"""Laws 15, 18 and 19 over every pair of methods that share batches, on a few families.

With `PETUNE_FULL=1` (`make test-full`) on all of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from petune.model.bank import Bank
from petune.model.running import run
from tests import tiny
from tests.conformance.subjects import add, batch, differ, hidden, ids, method, open_backbone
from tests.covering import METHODS, NO_PREFIX, NO_TOKENS, READ_TWICE

SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS if name not in ("full", "bottleneck")},
    "houlsby": ("bottleneck", {}),
    "parallel": ("bottleneck", {"style": "parallel", "scale": 4.0}),
}
"""What shares batches: methods with knobs; the forms of a bottleneck act at different sites."""
SIZE = {"lora": "rank", "bottleneck": "width", "prefix": "length", "prompt-tuning": "length"}
SOME = ("bert", "llama", "t5")
"""An encoder, a decoder, and both; the first has token types, the second fewer key heads than query heads."""


class Pair(NamedTuple):
    """Two methods on one family."""

    family: str
    first: str
    second: str

    def __str__(self) -> str:
        return "-".join(self)


def pairs() -> list[Pair]:
    """Every pair, also of a method with itself, where the family takes both."""
    families = tiny.FAMILIES if os.environ.get("PETUNE_FULL") == "1" else SOME
    every = [Pair(family, *two) for family in families for two in combinations_with_replacement(SHARED, 2)]
    refused = {"prefix": NO_PREFIX, "prompt-tuning": READ_TWICE}
    return [pair for pair in every if not any(pair.family in refused.get(name, ()) for name in pair[1:])]


PAIRS = pairs()


class Both(NamedTuple):
    """A pair, alive: adapters `a` and `b`, `wide` like `a` with another inner size, and what each says alone."""

    bank: Bank
    inputs: dict[str, Tensor]
    alone: dict[str, Tensor]
    bare: Tensor | None


@cache
def both(pair: Pair) -> Both:
    """Seated on one backbone, with heads of 2, 3 and (where the family has such a task) 5 outputs."""
    bank = Bank(open_backbone(pair.family))
    tags = "regression" if pair.family in NO_TOKENS else "tokens"
    for seed, (name, of, task) in enumerate((("a", pair.first, "single"), ("b", pair.second, "multi"),
                                             ("wide", pair.first, tags))):  # fmt: skip
        recipe, knobs = SHARED[of]
        if pair.family == "deberta-v2" and recipe in ("lora", "adalora"):
            knobs = {**knobs, "targets": ("value", "ffn_output")}  # query and key also see relative positions
        size = {SIZE[recipe]: 6} if name == "wide" and recipe in SIZE else {}
        add(bank, name, method(recipe, **knobs, **size), task, seed=seed + 1, seated=True)
    inputs = batch(pair.family, "single")
    alone = {name: answer(bank, name, inputs) for name in bank.residents}
    return Both(bank, inputs, alone, None if pair.family in ("t5", "bart") else hidden(bank, inputs))


@torch.no_grad()
def answer(bank: Bank, route: Any, inputs: dict[str, Tensor]) -> Any:
    """The logits under a route."""
    return run(bank, bank.frame(route), inputs).logits


ROUTES: tuple[tuple[str | None, ...], ...] = (
    ("a", "b", "a", "b", "b"),
    ("a", "b", None, "wide", "a"),
    (None, "wide", "a", None, "b"),
)


@pytest.mark.parametrize("pair", PAIRS, ids=ids(PAIRS))
@torch.no_grad()
def test_rows_of_two_methods_are_those_of_solo_runs(pair):
    """Law 15: each row of a mixed batch has the logits of its adapter alone, with its own head; rows without one are
    the bare backbone's, to the bit where neither prefix nor prompt is beside them."""
    bank, inputs, alone, bare = both(pair)
    assert differ(alone["a"], alone["b"][:, :2]) > 1e-3
    prompted, prefixed = "prompt-tuning" in pair[1:], "prefix" in pair[1:]
    far = 1e-5 if prompted else 1e-6 if prefixed else 0.0  # beside a prompt every row of the batch is longer
    for route in ROUTES:
        output = run(bank, bank.frame(route), inputs)
        for row, name in enumerate(route):
            if name is None:
                assert output.logits[row] is None
                if bare is not None and output.last_hidden_state is not None:
                    # DeBERTa's padding attends to all places of the batch, and beside a prompt there are more.
                    real = inputs["attention_mask"][row].bool() if prompted else slice(None)
                    assert differ(output.last_hidden_state[row][real], bare[row][real]) <= far
                continue
            found, want = output.logits[row], alone[name][row]
            assert found.shape == want.shape
            if want.dim() == 2:  # tags: pieces that are no padding
                found, want = (it[inputs["attention_mask"][row].bool()] for it in (found, want))
            assert differ(found, want) <= 1e-5, (route, row)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(4) as made:
        yield made


def are_equal(found: Any, want: Any) -> bool:
    """Whether two answers are the same bits, row by row where they are lists."""
    if isinstance(want, Tensor):
        return torch.equal(found, want)
    return all(one is other is None or torch.equal(one, other) for one, other in zip(found, want, strict=True))


@pytest.mark.parametrize("pair", PAIRS, ids=ids(PAIRS))
def test_two_threads_never_see_each_others_adapter(pair, pool):
    """Law 18: threads with different routes on the same rows have the bits that each route gives by itself."""
    bank, inputs, _, _ = both(pair)
    routes = ("a", "b", list(ROUTES[0]), list(ROUTES[1]))
    wanted, start = [answer(bank, route, inputs) for route in routes], threading.Barrier(len(routes))

    def work(route: Any, want: Any) -> bool:
        start.wait(30)
        return all(are_equal(answer(bank, route, inputs), want) for _ in range(2))

    assert all(pool.map(work, routes, wanted))


@pytest.mark.parametrize("pair", PAIRS, ids=ids(PAIRS))
def test_an_exception_leaves_the_next_call_right(pair):
    """Law 19: a mixed batch that fails in the first or the last block leaves nothing to later calls, mixed or not."""
    bank, inputs, alone, bare = both(pair)
    route = list(ROUTES[1])
    wanted = answer(bank, route, inputs)

    def fail(*_: Any) -> None:
        raise KeyError("a failure inside")

    blocks = bank.backbone.blocks(bank.backbone.model)
    for _, block in (blocks[0], blocks[-1]):
        hook = block.register_forward_hook(fail, prepend=True)
        for broken in (route, "a"):
            with pytest.raises(KeyError):
                answer(bank, broken, inputs)
        hook.remove()
        assert are_equal(answer(bank, route, inputs), wanted)
        for name in ("b", "a"):
            assert torch.equal(answer(bank, name, inputs), alone[name])
        if bare is not None:
            assert torch.equal(hidden(bank, inputs), bare)
