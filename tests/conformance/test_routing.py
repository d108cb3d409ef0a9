"""Laws 9, 15 and 18: padding, routed batches against solo runs, and threads."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from petune.errors import RouteError
from petune.model.bank import Bank
from petune.model.routing import Route, entered
from petune.model.running import RoutedOutput, run
from tests import tiny
from tests.conformance import subjects
from tests.conformance.subjects import (
    add,
    batch,
    differ,
    examples,
    hidden,
    ids,
    method,
    open_backbone,
    real,
    subject,
    task,
    tokenizer,
)
from tests.covering import CASES, NO_PREFIX, NO_TOKENS

DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "opt")
# Tags and texts are padded on the right whatever the tokenizer says: their places count from the first piece.
LEFT = [case for case in CASES if case.family in DECODERS and case.task in ("single", "multi", "regression")]


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
@torch.no_grad()
def test_padding_changes_nothing(case):
    """Law 9: a row's logits are the same alone and beside longer rows."""
    one = subject(case)
    together = one.logits()
    parts = [part for each in examples(case.family, case.task) for part in task(case.task).parts(each)]
    for index, example in enumerate(parts):
        inputs = task(case.task).collate([example], tokenizer(case.family, case.task)).inputs
        alone = one.logits(inputs=inputs)[0]
        assert differ(together[index][: len(alone)], alone) <= 1e-5 * max(1.0, float(alone.abs().max()) / 10)


@pytest.mark.parametrize("case", LEFT, ids=ids(LEFT))
@torch.no_grad()
def test_padding_on_the_left_changes_nothing(case, monkeypatch):
    """Law 9: decoders that are padded on the left give the same logits as unpadded, with positions passed along."""
    one = subject(case)
    monkeypatch.setattr(tokenizer(case.family, case.task), "padding_side", "left")
    some = examples(case.family, case.task)
    inputs = task(case.task).collate(some, tokenizer(case.family, case.task)).inputs
    assert inputs["attention_mask"][:, 0].min() == 0
    if case.family != "opt":  # which counts positions along the mask by itself
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    together = one.logits(inputs=inputs)
    for index, example in enumerate(some):
        alone = one.logits(inputs=task(case.task).collate([example], tokenizer(case.family, case.task)).inputs)[0]
        assert differ(together[index], alone) <= 1e-5


def crowd(family: str, *, seated: bool) -> Bank:
    """Adapters of every method, of several sizes, tasks and numbers of classes on one backbone."""
    bank = Bank(open_backbone(family))
    add = functools.partial(subjects.add, seated=seated)
    # DeBERTa may project its relative positions with query and key: those cannot tell rows apart.
    where = {"targets": ("value", "ffn_output")} if family == "deberta-v2" else {}
    tags = "multi" if family in NO_TOKENS else "tokens"
    add(bank, "lora", method("lora", **where), "single", seed=1)
    add(bank, "wider", method("lora", rank=6, rslora=True, **where), "multi", seed=2)
    add(bank, "ada", method("adalora", **where), "regression", seed=3)
    add(bank, "houlsby", method("bottleneck"), "multi", seed=4)
    add(bank, "parallel", method("bottleneck", style="parallel", scale=4.0), tags, seed=5)
    add(bank, "probe", method("head"), "regression", seed=6)
    if family not in NO_PREFIX:
        add(bank, "short", method("prefix", length=3), "single", seed=7)
        add(bank, "long", method("prefix", length=6), tags, seed=8)
    return bank


ROUTES: tuple[tuple[str | None, ...], ...] = (
    ("lora", "wider", "ada", "houlsby", "parallel"),
    ("short", None, "long", "lora", None),
    ("probe", "short", "short", None, "parallel"),
    ("ada", None, "ada", None, "ada"),
    ("lora", "lora", "lora", "lora", "lora"),
    (None, None, None, None, None),
)


def routes(bank: Bank) -> list[list[str | None]]:
    """The routes, less the adapters that this family cannot have."""
    return [[name if name in bank.residents else None for name in route] for route in ROUTES]


def routed(bank: Bank, route: Route, inputs: dict[str, torch.Tensor]) -> RoutedOutput:
    """One call with a route per row."""
    return run(bank, bank.frame(route), inputs)


@pytest.mark.parametrize("seated", [True, False], ids=["seated", "training"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_a_routed_batch_equals_solo_runs(family, seated):
    """Law 15: each row of a mixed batch has the logits of its own adapter; rows without one are the bare backbone's."""
    bank, inputs = crowd(family, seated=seated), batch(family, "single")
    apart = crowd(family, seated=False)
    solo = {name: run(apart, apart.frame(name), inputs).logits for name in bank.residents}
    for name, want in solo.items():
        assert differ(run(bank, bank.frame(name), inputs).logits, want) <= 1e-5
    kinds = {"tokens": "tokens"} | {name: "tokens" for name in ("parallel", "long") if family not in NO_TOKENS}
    bare = hidden(bank, inputs) if family not in ("t5", "bart") else None
    for route in routes(bank):
        if family == "t5" and not any(route):
            continue  # the bare T5 needs the decoder's ids from the caller
        output = routed(bank, route, inputs)
        prefixed = any(name in ("short", "long") for name in route)
        for row, name in enumerate(route):
            if name is None:
                assert output.logits[row] is None
                if bare is not None:
                    assert output.last_hidden_state is not None
                    assert differ(output.last_hidden_state[row], bare[row]) <= (1e-6 if prefixed else 0.0)
                continue
            mask = inputs["attention_mask"][row].bool() if kinds.get(name) == "tokens" else slice(None)
            assert differ(output.logits[row][mask], solo[name][row][mask]) <= 1e-5, (route, name)


def test_a_site_that_cannot_tell_rows_apart_refuses_a_mixed_batch():
    """DeBERTa's query and key maps also see relative positions: a mixed batch is refused, a whole one is right."""
    bank, inputs = Bank(open_backbone("deberta-v2", share_att_key=True)), batch("deberta-v2", "single")
    add(bank, "mine", method("lora", targets=("query", "key")), "single", seated=True)
    whole = run(bank, bank.frame("mine"), inputs).logits
    listed = routed(bank, ["mine"] * len(whole), inputs).logits
    assert differ(torch.stack(listed), whole) == 0
    with pytest.raises(RouteError, match="leading axis"):
        routed(bank, ["mine", None, "mine", None, None], inputs)
    assert differ(run(bank, bank.frame("mine"), inputs).logits, whole) == 0


@pytest.mark.parametrize("route", [["lora"], ["lora"] * 9, []])
def test_a_route_of_another_length_is_refused(route):
    """One entry for each row, no broadcasting and no silence."""
    bank = Bank(open_backbone("bert"))
    add(bank, "lora", method("lora"), "single")
    with pytest.raises(RouteError, match="row"):
        routed(bank, route, batch("bert", "single"))


def test_gradients_of_a_routed_batch_are_those_of_solo_runs():
    """Each adapter of a mixed batch gets the gradients that its own rows give."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    adapters = [add(bank, name, method("lora"), "single", seed=seed) for seed, name in enumerate("ab")]
    route = ["a", "b", "a", "b", "b"]

    def gradients(mixed: bool) -> list[torch.Tensor]:
        parts = [p for adapter in adapters for p in adapter.body.module().parameters()]
        for p in parts:
            p.grad = None
        if mixed:
            torch.stack(routed(bank, route, inputs).logits).pow(2).sum().backward()
        else:
            for name in "ab":
                rows = torch.tensor([index for index, of in enumerate(route) if of == name])
                run(bank, bank.frame(name), inputs).logits[rows].pow(2).sum().backward()
        return [p.grad.clone() for p in parts]

    assert max(map(differ, gradients(True), gradients(False))) <= 1e-5


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_threads_never_see_each_others_adapter(family):
    """Law 18: threads with different routes have the bits that each has alone; a new thread has no route."""
    bank, inputs = crowd(family, seated=True), batch(family, "single")
    names = [name for name in bank.residents if name not in ("parallel", "long")]
    gate = threading.Barrier(len(names))
    with torch.no_grad():
        alone = {name: run(bank, bank.frame(name), inputs).logits for name in names}
        bare = hidden(bank, inputs)

    @torch.no_grad()
    def work(name: str) -> bool:
        gate.wait()
        return all(torch.equal(run(bank, bank.frame(name), inputs).logits, alone[name]) for _ in range(6))

    with ThreadPoolExecutor(len(names)) as pool:
        assert all(pool.map(work, names))
    with entered(bank.frame("lora")), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(hidden, bank, inputs).result(), bare)


@torch.no_grad()
def test_unmasked_pieces_are_the_only_ones_compared():
    """The helper that drops padded pieces keeps exactly the masked-in ones."""
    inputs = batch("bert", "tokens")
    logits = torch.arange(inputs["input_ids"].numel()).view_as(inputs["input_ids"]).unsqueeze(-1)
    assert len(real(logits, inputs, "tokens")) == int(inputs["attention_mask"].sum())
