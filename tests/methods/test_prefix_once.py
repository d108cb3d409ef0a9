"""A prefix costs what it must: it is made once for a batch, and no row attends twice."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from petune.methods.base import Method
from petune.methods.prefix import Prefix
from petune.model import attention
from petune.model.bank import Bank
from petune.model.joint import logits_together
from petune.model.learner import Learner
from tests.conformance.subjects import add, batch, differ, method, open_backbone


def flops(recipe: Method, rows: int) -> int:
    """Of a forward and a backward of some rows, all of one length."""
    bank = Bank(open_backbone("bert", dropout=0.0))
    learner = Learner(bank, add(bank, "mine", recipe, "single"))
    ids = torch.randint(5, 100, (rows, 9))
    with learner.fitting(backbone_dropout=False), FlopCounterMode(display=False) as counted:
        learner(input_ids=ids, attention_mask=torch.ones_like(ids)).sum().backward()
    return int(counted.get_total_flops())


def test_a_prefix_is_made_once_for_all_rows() -> None:
    """What the network of a reparametrised prefix costs is the same for two rows and for sixteen."""
    direct, made = Prefix(length=8), Prefix(length=8, reparametrise=24)
    few, many = (flops(made, rows) - flops(direct, rows) for rows in (2, 16))
    assert few == many > 0


def test_no_row_attends_twice(monkeypatch: Any) -> None:
    """In a joint forward of prefixes and others each row passes each attention once, and has the logits of its own."""
    bank = Bank(open_backbone("bert", dropout=0.0))
    recipes = {"one": method("prefix"), "two": method("prefix", length=5), "three": method("lora")}
    learners = [
        Learner(bank, add(bank, name, recipe, "single", seed=seed))
        for seed, (name, recipe) in enumerate(recipes.items())
    ]
    given = [batch("bert", "single", rows) for rows in (2, 4, 3)]
    alone = [learner(**inputs) for learner, inputs in zip(learners, given, strict=True)]
    seen: list[int] = []
    whole = attention.Call._run

    def counting(call: Any, rows: Any, key: Any, value: Any, mask: Any, more: int) -> Any:
        seen.append(len(key))
        return whole(call, rows, key, value, mask, more)

    monkeypatch.setattr(attention.Call, "_run", counting)
    with ExitStack() as stack:
        for learner in learners:
            stack.enter_context(learner.fitting(backbone_dropout=False))
        answers = logits_together(learners, given, [None] * len(learners))
    assert sum(seen) == 2 * (2 + 4 + 3)
    assert all(differ(answer.logits, wanted) <= 1e-5 for answer, wanted in zip(answers, alone, strict=True))
