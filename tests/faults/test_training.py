"""Runs that are killed, poisoned, or find their checkpoint damaged. Long forms: `python -m benchmarks.faults`."""

from __future__ import annotations

from benchmarks.faults import damaged_checkpoint, poison, runs, training_kills


def test_a_killed_run_goes_on_to_the_same_bits():
    """For each method, killed in training and inside a save, with `keep_last=1` and no human act."""
    found = training_kills.run(8, seed=0)
    assert not found["failures"], found
    assert found["identical"] == found["kills"] == 8 and found["methods"] == list(runs.METHODS)


def test_a_poisoned_run_stops_with_its_last_finite_adapter():
    """Step and learning rate are told, and nothing that is not finite reaches the disk."""
    found = poison.run(poison.COUNT, seed=0)
    assert not found["failures"], found
    assert found["runs"] == len(poison.KINDS) and found["refused"] == 3 and found["stopped"] >= 6


def test_a_damaged_newest_checkpoint_costs_steps_and_no_bits():
    """The one before it is taken with a warning that names the file; a pickle in its place is not run."""
    found = damaged_checkpoint.run(1, seed=0)
    assert not found["failures"], found
    assert found["fell_back_with_a_warning"] == found["damages"] == 10
