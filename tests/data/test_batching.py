"""The plan of an epoch: every row once, the same for everyone, whatever the cut."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from petune.data.batching import WINDOW, Step, ordered_batches, padding_share, plan_epoch
from petune.errors import ConfigError, DataError


def _rows(step: Step) -> list[int]:
    return [row for micro in step.micro for rank in micro for row in rank]


def _lengths(count: int, seed: int = 0) -> list[int]:
    return [random.Random(seed * 7919 + i).randint(1, 128) for i in range(count)]


CASES = [
    (count, batch, accumulation, world, grouped)
    for count, batch, accumulation, world, grouped in itertools.product(
        (1, 2, 3, 5, 16, 17, 33, 100, 517), (1, 2, 8), (1, 2, 3), (1, 2, 3, 4), (False, True)
    )
    if count >= world
]


@pytest.mark.parametrize(("grouped", "world"), list(itertools.product((False, True), (1, 2, 3, 4))))
def test_plans_keep_every_promise(grouped, world):
    """Each row once; full sizes except at the end; no forward is without rows; near-equal slices."""
    for count, batch, accumulation, _, _ in (case for case in CASES if case[3:] == (world, grouped)):
        for seed in range(3):
            steps = plan_epoch(
                _lengths(count, seed),
                batch_size=batch,
                accumulation=accumulation,
                seed=seed,
                epoch=seed,
                group_by_length=grouped,
                world=world,
            )
            assert sorted(row for step in steps for row in _rows(step)) == list(range(count))
            micros = [micro for step in steps for micro in step.micro]
            assert all(len(step.micro) == accumulation for step in steps[:-1])
            assert 1 <= len(steps[-1].micro) <= accumulation
            for micro in micros:
                sizes = [len(rank) for rank in micro]
                assert len(sizes) == world
                assert sizes[0] >= 1
                assert max(sizes) - min(sizes) <= 1
            assert all(len(rank) == batch for micro in micros[:-1] for rank in micro)
            assert max(len(rank) for rank in micros[-1]) <= batch


@pytest.mark.parametrize("grouped", [False, True])
def test_seed_and_epoch_alone_decide(grouped):
    """The same plan for the same seed and epoch, another for others; global generators are neither read nor moved."""
    lengths = _lengths(200)

    def plan(seed: int, epoch: int) -> list[Step]:
        return plan_epoch(lengths, batch_size=4, accumulation=2, seed=seed, epoch=epoch, group_by_length=grouped)

    random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = plan(3, 1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.random()
    assert plan(3, 1) == first
    plans = [plan(seed, epoch) for seed, epoch in itertools.product(range(4), range(4))] + [
        plan(1, 23),
        plan(12, 3),
        plan(3, 12),
        plan(23, 1),
    ]
    assert all(a != b for a, b in itertools.combinations(plans, 2))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [16, 40, 100, 131])
def test_accumulation_and_world_only_cut_differently(seed, count):
    """2 forwards of 8, 1 of 16, or 2 processes of 8: a step covers the same rows in the same order."""
    cuts = [(16, 1, 1), (8, 2, 1), (8, 1, 2), (4, 4, 1), (4, 2, 2), (4, 1, 4)]
    plans = [
        plan_epoch([1] * count, batch_size=b, accumulation=a, seed=seed, epoch=2, group_by_length=False, world=w)
        for b, a, w in cuts
    ]
    rows = [[_rows(step) for step in plan] for plan in plans]
    assert all(other == rows[0] for other in rows)


def test_a_left_over_smaller_than_the_processes_leaves_some_without_rows():
    """17 rows for 4 processes of 4: the step that one process would take with the last row is a step here too."""
    plan = plan_epoch([1] * 17, batch_size=4, accumulation=1, seed=0, epoch=0, group_by_length=False, world=4)
    assert [[len(rank) for rank in step.micro[0]] for step in plan] == [[4, 4, 4, 4], [1, 0, 0, 0]]


def test_grouping_pads_less_and_still_mixes_epochs():
    """Grouped batches pad little, come in shuffled order, and differ from epoch to epoch."""
    lengths = _lengths(3_000)

    def batches(grouped: bool, epoch: int = 0) -> list[list[int]]:
        plan = plan_epoch(lengths, batch_size=8, accumulation=1, seed=0, epoch=epoch, group_by_length=grouped)
        return [_rows(step) for step in plan]

    assert padding_share(lengths, batches(True)) < 0.05 < 0.3 < padding_share(lengths, batches(False))
    longest = [max(lengths[row] for row in batch) for batch in batches(True)]
    assert longest != sorted(longest)
    ascents = sum(a < b for a, b in itertools.pairwise(longest)) / len(longest)
    assert 0.35 < ascents < 0.65
    same = {frozenset(batch) for batch in batches(True)} & {frozenset(batch) for batch in batches(True, 1)}
    assert len(same) < 5


def test_few_rows_are_grouped_in_smaller_windows():
    """With fewer rows than a window, two epochs still see different batches."""
    lengths = _lengths(160)
    assert len(lengths) < WINDOW * 8
    first, second = (
        {
            frozenset(_rows(step))
            for step in plan_epoch(lengths, batch_size=8, accumulation=1, seed=0, epoch=epoch, group_by_length=True)
        }
        for epoch in (0, 1)
    )
    assert not first & second


def test_the_short_grouped_batch_comes_last():
    """Only the last micro-batch is short, though the others are shuffled."""
    for seed in range(20):
        plan = plan_epoch(_lengths(101), batch_size=8, accumulation=2, seed=seed, epoch=0, group_by_length=True)
        sizes = [len(micro[0]) for step in plan for micro in step.micro]
        assert sizes == [8] * 12 + [5]


@pytest.mark.parametrize(("count", "world"), [(0, 1), (3, 4)])
def test_fewer_rows_than_processes_is_refused(count, world):
    """A process without rows would leave the others waiting."""
    with pytest.raises(DataError, match=f"{count} rows for {world} processes"):
        plan_epoch([1] * count, batch_size=2, accumulation=1, seed=0, epoch=0, group_by_length=True, world=world)


@pytest.mark.parametrize("knob", ["batch_size", "accumulation", "world"])
def test_sizes_below_one_are_refused(knob):
    """A size of 0 names its knob."""
    knobs = {"batch_size": 2, "accumulation": 1, "world": 1} | {knob: 0}
    with pytest.raises(ConfigError, match=knob):
        plan_epoch([1, 2], seed=0, epoch=0, group_by_length=False, **knobs)


@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_evaluation_batches_hold_each_row_once_longest_first(count):
    """Batches are full except the last, and lengths never rise."""
    lengths = _lengths(count)
    batches = ordered_batches(lengths, 8)
    flat = [row for batch in batches for row in batch]
    assert sorted(flat) == list(range(count))
    assert [lengths[row] for row in flat] == sorted(lengths, reverse=True)
    assert all(len(batch) == 8 for batch in batches[:-1])


def test_padding_share_is_the_share_of_positions_that_pad():
    """Checked by hand; no rows pad nothing."""
    assert padding_share([2, 4, 6], [[0, 1], [2]]) == pytest.approx(2 / 14)
    assert padding_share([5, 5], [[0, 1]]) == 0.0
    assert padding_share([], []) == 0.0
