"""Batches of a budget of tokens: every row once, nobody over the budget, little padding."""

from __future__ import annotations

import itertools
import random

import pytest

from petune.config import TrainConfig
from petune.data.batching import Step, ordered_batches, padding_share, plan_epoch
from petune.errors import ConfigError


def texts(count: int, seed: int = 0) -> list[int]:
    """Lengths as texts have them: log-normal, about 30 pieces, half as much spread."""
    draw = random.Random(seed)
    return [min(128, max(3, round(draw.lognormvariate(3.25, 0.5)))) for _ in range(count)]


def plan(lengths: list[int], **knobs) -> list[Step]:
    """A plan with a budget of 512 tokens, and up to 64 rows."""
    given = {"batch_size": 64, "accumulation": 1, "seed": 0, "epoch": 0, "group_by_length": True, "max_tokens": 512}
    return plan_epoch(lengths, **{**given, **knobs})


def rows(steps: list[Step]) -> list[int]:
    """In the order in which they are seen."""
    return [row for step in steps for micro in step.micro for rank in micro for row in rank]


def shares(steps: list[Step]) -> list[list[int]]:
    """What each process gives to each forward."""
    return [rank for step in steps for micro in step.micro for rank in micro]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_once_and_nobody_over_the_budget(grouped: bool, world: int) -> None:
    """Whatever the numbers: each row once, a row in each forward, no process over the budget or the row limit."""
    for count, most, accumulation, seed in itertools.product((3, 4, 7, 50, 333), (1, 5, 64), (1, 3), range(4)):
        lengths = texts(count, seed)
        steps = plan(
            lengths, batch_size=most, accumulation=accumulation, seed=seed, group_by_length=grouped, world=world,
            max_tokens=160,
        )  # fmt: skip
        assert sorted(rows(steps)) == list(range(count))
        assert all(len(step.micro) == accumulation for step in steps[:-1])
        assert all(micro[0] for step in steps for micro in step.micro)
        assert max(len(rank) for rank in shares(steps)) <= most
        assert not [r for r in shares(steps) if len(r) * max((lengths[row] for row in r), default=0) > 160]


def test_seed_and_epoch_decide() -> None:
    """The same plan again for the same seed and epoch, another for others."""
    lengths = texts(400)
    assert plan(lengths, seed=3, epoch=2) == plan(lengths, seed=3, epoch=2)
    plans = [plan(lengths, seed=seed, epoch=epoch) for seed, epoch in itertools.product(range(3), range(3))]
    assert all(one != other for one, other in itertools.combinations(plans, 2))


@pytest.mark.parametrize(("count", "knobs"), [
    (8_000, {"max_tokens": 512}),
    (2_000, {"max_tokens": 512}),
    (8_000, {"max_tokens": None, "batch_size": 16}),
    (8_000, {"max_tokens": None, "batch_size": 32}),
])  # fmt: skip
def test_lengths_of_texts_pad_little(count: int, knobs: dict[str, int | None]) -> None:
    """Less than 8 of 100 positions pad, with a budget and with batches of one size; of shuffled rows more than 40."""
    lengths = texts(count)
    assert padding_share(lengths, shares(plan(lengths, **knobs))) < 0.08
    shuffled = plan(lengths, max_tokens=None, batch_size=16, group_by_length=False)
    assert padding_share(lengths, shares(shuffled)) > 0.4


def test_a_budget_is_filled() -> None:
    """Forwards hold most of what they may, many short rows or few long ones, in shuffled order."""
    lengths = texts(8_000)
    batches = shares(plan(lengths))
    padded = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
    assert sum(padded) / len(padded) > 0.85 * 512
    assert max(map(len, batches)) > 3 * min(map(len, batches))
    assert [len(batch) for batch in batches] != sorted(len(batch) for batch in batches)


def test_few_equal_batches_between_epochs() -> None:
    """Two epochs share next to no batch."""
    lengths = texts(2_000)
    one, other = ({frozenset(batch) for batch in shares(plan(lengths, epoch=epoch))} for epoch in (0, 1))
    assert len(one & other) < 5


def test_a_row_over_the_budget_is_refused() -> None:
    """A row cannot be cut; the error says how long it is."""
    with pytest.raises(ConfigError, match="row of 600 pieces"):
        plan([5, 600])


def test_evaluation_keeps_to_the_budget_too() -> None:
    """Longest rows first; a row that is longer than the budget is alone."""
    lengths = [4, 30, 9, 9, 8]
    assert ordered_batches(lengths, 8, max_tokens=20) == [[1], [2, 3], [4, 0]]


def test_the_knob_is_checked() -> None:
    """A budget is positive, and no forward has two sizes."""
    with pytest.raises(ConfigError, match="max_tokens"):
        TrainConfig(max_tokens=0)
    with pytest.raises(ConfigError, match="Give one of the two"):
        TrainConfig(max_tokens=512, batch_size="auto")
    with pytest.raises(ConfigError, match="'auto' or a whole number"):
        TrainConfig(batch_size="most")  # type: ignore[arg-type]
    assert TrainConfig(batch_size="auto").rows == TrainConfig().rows == 16
