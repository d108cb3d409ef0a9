"""Runs that go on with another number of processes, and evaluations of few rows by several: one process's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petune.errors import CheckpointError
from tests.training import launches
from tests.training.launches import AT, MODULE, RESUMED, SIZES
from tests.training.several import do
from tests.training.test_sharding import one, same, two  # noqa: F401 (fixtures)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three processes."""
    return launches.three(tmp_path_factory)


def alone(**job: Any) -> dict[str, Any]:
    """A job in this process."""
    return do(MODULE, {"job": job})["job"]  # type: ignore[no-any-return]


def test_two_processes_go_on_as_one(two):  # noqa: F811
    """A sharded run of two resumes in one process, unsharded, to the weights of the run that was never stopped."""
    resumed = alone(**RESUMED, resume=f"{two['place']}/runs/{AT}")
    same(resumed, two["ranks"][0]["saving"])
    told = " ".join(resumed["notices"])
    assert "planned for 2 processes and are done by 1 process" in told and "at most 4 rows a process" in told
    assert "random states of 2 processes, of which 1 went on" in told


def test_one_process_goes_on_as_two(one, two):  # noqa: F811
    """Both end with the same bits, those of one process but for rounding; the newcomer's random state is told of."""
    for rank in two["ranks"]:
        same(rank["from one"], one["saving"])
        assert rank["from one"]["digest"] == two["ranks"][0]["from one"]["digest"]
        told = " ".join(rank["from one"]["notices"])
        assert "planned for 1 process and are done by 2 processes" in told
        assert "those of process 1 and later are seeded by seed, process and step" in told


def test_two_processes_go_on_as_three_and_these_as_one(two, three):  # noqa: F811
    """Eight rows a forward do not divide by three; a second change of number still follows the first plan."""
    for rank in three["ranks"]:
        same(rank["from two"], two["ranks"][0]["saving"])
        assert (
            rank["from two, sharded"]["digest"] == rank["from two"]["digest"] == three["ranks"][0]["from two"]["digest"]
        )
    again = Path(three["place"]) / "runs" / "checkpoint-00000004"
    state = json.loads((again / "state.json").read_text())["state"]
    assert state["identity"]["processes"] == 2 and len(state["training"]["rng"]) == 3
    same(alone(**RESUMED, resume=str(again)), two["ranks"][0]["saving"])


def test_what_would_be_another_run_is_refused(two):  # noqa: F811
    """Another batch size is a difference, also where it keeps the rows of a step; the processes are none."""
    with pytest.raises(CheckpointError, match="batch_size: 4 in the checkpoint, 8 now") as caught:
        alone(**{**RESUMED, "batch_size": 8}, resume=f"{two['place']}/runs/{AT}")
    assert "processes:" not in str(caught.value) and "number of processes may change" in str(caught.value)


def test_more_processes_than_rows_of_a_last_step(three):
    """Ten rows, nine a step: the one that is left over is a step of one process, as it is of a process alone."""
    single = alone(**{**launches.CUT, "method": "lora", "rows": 10, "batch_size": 9, "gradient_accumulation_steps": 1})
    for rank in three["ranks"]:
        assert len(rank["few"]["losses"]) == 6
        np.testing.assert_allclose(rank["few"]["losses"], single["losses"], rtol=1e-5)
        assert rank["few"]["tokens"] == single["tokens"]


@pytest.mark.parametrize("size", SIZES)
def test_figures_of_few_rows_are_exact(two, three, size):  # noqa: F811
    """Also of fewer rows than processes: what all found together is to the bit what each finds alone."""
    for launch in (two, three):
        for rank in launch["ranks"]:
            made = rank["evaluated"][str(size)]
            assert made["together"] == made["alone"] and made["rows"] == size
            assert made == launch["ranks"][0]["evaluated"][str(size)] and len(made["answers"]) == size


def test_figures_of_few_rows_are_exact_with_shards(two):  # noqa: F811
    """Whoever has no batch takes part in the others' forwards all the same, and nobody waits for good."""
    for rank in two["ranks"]:
        for made in rank["evaluated, sharded"].values():
            assert made["together"] == made["alone"]
            assert np.isfinite(list(made["together"].values())).all()
