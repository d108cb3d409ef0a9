"""Which rows go where, as pure functions: every row once an epoch, whatever the number of processes."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from petune.config import TrainConfig
from petune.data.batching import plan_epoch
from petune.training.batches import Course, micro_batches
from petune.training.ranks.dealing import Ranks
from petune.training.ranks.regrouping import go_on_in_other_processes, regrouped, seed_newcomer
from tests.training.fakes import FakeTask, examples


def flat(steps: list[Any]) -> list[int]:
    """The rows of all steps, forwards and processes."""
    return [row for micro in steps for ranks in micro for rows in ranks for row in rows]


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=70), seed=st.integers(0, 3), epoch=st.integers(0, 2),
    world=st.integers(1, 4), batch_size=st.integers(1, 5), accumulation=st.integers(1, 3), grouped=st.booleans(),
    budget=st.none() | st.integers(12, 30), now=st.integers(1, 5),
)  # fmt: skip
def test_every_row_is_seen_once(lengths, seed, epoch, world, batch_size, accumulation, grouped, budget, now):
    """By one process each, in the epoch as planned and cut for another number; every step keeps its rows in order."""
    if len(lengths) < world:
        return
    knobs = {"batch_size": batch_size, "accumulation": accumulation, "seed": seed, "epoch": epoch}
    steps = plan_epoch(lengths, **knobs, group_by_length=grouped, world=world, max_tokens=budget)
    micros = [step.micro for step in steps]
    assert sorted(flat(micros)) == list(range(len(lengths)))
    cut = [regrouped(m, lengths, processes=now, batch_size=batch_size, max_tokens=budget) for m in micros]
    for before, after in zip(micros, cut, strict=True):
        assert flat([before]) == flat([after])
        assert all(len(ranks) == now for ranks in after)
        assert all(any(ranks) for ranks in after)
        for rows in (rows for ranks in after for rows in ranks):
            assert len(rows) <= batch_size
            assert budget is None or len(rows) * max((lengths[row] for row in rows), default=0) <= budget


def test_two_sizes_of_a_plan_are_the_same_plan():
    """Two processes of B and one of 2B see the same rows in each forward, with and without grouping."""
    draw = random.Random(0)
    for rows, seed, grouped in itertools.product((9, 27, 64), range(3), (False, True)):
        lengths = [draw.randint(1, 20) for _ in range(rows)]
        knobs: dict[str, Any] = {"accumulation": 2, "seed": seed, "epoch": 1, "group_by_length": grouped}
        double = plan_epoch(lengths, batch_size=4, world=2, **knobs)
        single = plan_epoch(lengths, batch_size=8, world=1, **knobs)
        joined = [[[row for part in ranks for row in part] for ranks in step.micro] for step in double]
        whole = [[ranks[0] for ranks in step.micro] for step in single]
        assert joined == whole


def test_a_run_goes_on_in_the_same_steps():
    """Total, ends of epochs, supervised items and tokens of every step are those of the plan it began with."""
    rows, config = examples(27), TrainConfig(batch_size=4, gradient_accumulation_steps=2, epochs=3)
    planned = Course(FakeTask(), rows, config, 2)
    for world in (1, 3, 5, 30):
        now = Course(FakeTask(), rows, config, world, planned_for=2)
        assert (now.total, now.starts) == (planned.total, planned.starts)
        for before, after in zip(planned.after(1), now.after(1), strict=True):
            assert before._replace(micro=[]) == after._replace(micro=[])
            assert flat([before.micro]) == flat([after.micro])


def test_a_process_without_rows_takes_part_and_does_not_count():
    """It is given a row of another's, whose loss is no part of the step's."""
    course = Course(FakeTask(), examples(27), TrainConfig(batch_size=4), 30, planned_for=2)
    step = next(iter(course.after(0)))
    batches = [
        list(micro_batches(step, FakeTask(), None, course.examples, rank, torch.device("cpu"))) for rank in (0, 29)
    ]
    assert [len(each) for each in batches] == [1, 1]
    assert [batch.counts for each in batches for batch in each] == [True, False]
    assert all(len(batch.labels) == 1 for each in batches for batch in each)


@pytest.mark.parametrize(("batches", "processes"), [(0, 2), (1, 2), (1, 3), (4, 3), (9, 2)])
def test_evaluations_are_dealt_out_once(batches, processes):
    """Each batch counts on one process, and all do equally many forwards."""
    hands = [Ranks(rank, processes).dealt(batches) for rank in range(processes)]
    assert sorted(batch for hand in hands for batch, counts in hand if counts) == list(range(batches))
    assert len({len(hand) for hand in hands}) == 1


def test_newcomers_are_seeded_by_seed_process_and_step():
    """The same for the same three, in every generator; different for any other."""

    def drawn(*given: int) -> tuple[float, ...]:
        seed_newcomer(*given)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert drawn(0, 1, 2) == drawn(0, 1, 2)
    assert len({drawn(*given) for given in itertools.product(range(2), repeat=3)}) == 8


def test_as_many_processes_as_before_change_nothing():
    """No notice, no other course, no other random number."""
    course, config = object(), TrainConfig()
    here: Any = SimpleNamespace(num_processes=2, process_index=1)
    run: Any = SimpleNamespace(accelerator=here, course=course, config=config, step=3)
    state = torch.get_rng_state()
    assert go_on_in_other_processes(run, 2, 2) == [] and run.course is course
    assert torch.equal(state, torch.get_rng_state())
