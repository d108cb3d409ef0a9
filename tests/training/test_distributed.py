"""Two processes over loopback (gloo): the same adapter on both, and the one that a single process would get."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training import several
from tests.training.fakes import examples
from tests.training.two_processes import cached, job, writing

PLAIN = {
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "group_by_length": False,
    "epochs": 2,
    "gradient_accumulation_steps": 2,
}
PADDED = {**PLAIN, "epochs": 3, "padding_free": False}
"""Every row of a batch is one row of its states, so that they can be counted."""
NOISY = {"batch_size": 4, "dropout": 0.3, "epochs": 2, "save_every": 1}


def launch(out: Path, jobs: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of two processes made of the jobs; ends within a bounded time, whatever happens."""
    command = [sys.executable, "-m", "tests.training.two_processes", str(out), json.dumps(jobs)]
    return several.answers_of(command, out, processes=2, seconds=120)


def rows_apart() -> int:
    """The first row whose label the second process may read otherwise."""
    return next(n for n, row in enumerate(examples(27)) if n > 2 and row["labels"] != 2)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict[str, Any]]:
    """All jobs in one launch: starting two processes costs more than training in them."""
    out = tmp_path_factory.mktemp("two")
    cut = {**NOISY, "output_dir": str(out / "cut")}
    jobs = {
        "plain": {**PLAIN, "batch_size": 4},
        "left over": {**PLAIN, "batch_size": 13, "gradient_accumulation_steps": 1},
        "whole": {**NOISY, "output_dir": str(out / "whole")},
        "cut": {**cut, "stop_at": 7},
        "resumed": {**cut, "resume": "auto"},
        "poisoned": {**PLAIN, "batch_size": 4, "poison": True},
        "cached": {**PADDED, "batch_size": 4, "cache_trunk": True},
        "altered": {**PLAIN, "batch_size": 4, "alter": 1},
        "altered late": {**PLAIN, "batch_size": 4, "alter": 3, "save_every": 2, "output_dir": str(out / "late")},
        "altered last": {**PLAIN, "batch_size": 4, "alter": 2, "epochs": 1},
        "other row": {**PLAIN, "batch_size": 4, "unlike": {"row": int(rows_apart())}},
        "other knobs": {**PLAIN, "batch_size": 4, "unlike": {"seed": 1, "weight_decay": 0.5}},
        "after all": {**PLAIN, "batch_size": 4},
        "written": {**PLAIN, "batch_size": 2, "metrics": ["chrf"]},
    }
    return launch(out, jobs)


@pytest.mark.parametrize("name", ["plain", "left over"])
def test_two_processes_train_the_adapter_of_one(both, name):
    """Same bits on both, and those of one process with twice the batch; also where one row of 27 is left for two."""
    first, second = (rank[name] for rank in both)
    cut = {"plain": {"batch_size": 8}, "left over": {"batch_size": 26, "gradient_accumulation_steps": 1}}[name]
    alone = job(0, **{**PLAIN, **cut})
    assert first["state"] == second["state"] and first["losses"] == second["losses"]
    assert first["best"] == second["best"] and first["tokens"] == alone["tokens"]
    np.testing.assert_allclose(first["losses"], alone["losses"], rtol=1e-5)
    for name, value in alone["state"].items():
        np.testing.assert_allclose(first["state"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_two_processes_resume_to_the_same_bits(both):
    """With dropout that differs by process, a run that was cut and resumed ends as the one that was not."""
    for rank in both:
        assert rank["cut"]["error"].startswith("Stopped")
        assert rank["resumed"]["state"] == rank["whole"]["state"] != rank["cut"]["state"]
        assert rank["resumed"]["losses"] == rank["whole"]["losses"]
        assert rank["resumed"]["state"] == both[0]["resumed"]["state"]


def test_a_bad_gradient_on_one_process_stops_both(both):
    """NaN on the second process only: both stop with the step, none waits for the other, both are finite."""
    for rank in both:
        assert "gradient norm became nan at step 1" in rank["poisoned"]["error"]
        assert rank["poisoned"]["state"] == both[0]["poisoned"]["state"]
        assert all(np.isfinite(value).all() for value in rank["poisoned"]["state"].values())


def test_only_the_main_process_writes(both, tmp_path_factory):
    """There is one history, and a checkpoint of two processes holds the random state of both."""
    folder = next(tmp_path_factory.getbasetemp().glob("two*/whole"))
    steps = [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and len(steps) == len(both[0]["whole"]["losses"]) + 2
    state = json.loads((max(folder.glob("checkpoint-*")) / "state.json").read_text())["state"]
    assert len(state["training"]["rng"]) == 2 and state["identity"]["processes"] == 2


def test_two_processes_share_a_trunk_cache(both):
    """Each computes its share of the rows once, and both train the adapter of one process without a cache."""
    first, second = (rank["cached"] for rank in both)
    assert first["state"] == second["state"] and first["losses"] == second["losses"]
    assert first["computed"] + second["computed"] <= 27 + 5 + 2 * 4 * 3
    alone = cached(0, **PADDED, batch_size=8, cache_trunk=False)
    assert alone["computed"] >= 3 * 27
    np.testing.assert_allclose(first["losses"], alone["losses"], rtol=1e-5)


def test_an_adapter_that_differs_stops_every_rank(both):
    """A last bit changed on one rank is found after the first step, at the next checkpoint, and at the end at last."""
    for rank in both:
        for name, when in (
            ("altered", "after the first step"),
            ("altered late", "at the checkpoint of step 4"),
            ("altered last", "at the end"),
        ):
            error = rank[name]["error"]
            assert error.startswith(f"ProcessError: The processes no longer train the same adapter, {when}"), error
            assert "Rank 1 differs from rank 0 in" in error and "the first of them 'adapter.weight'" in error


def test_nothing_is_kept_of_adapters_that_differ(both, tmp_path_factory):
    """The checkpoint from before the change is there, and the one at which it was found was not written."""
    folder = next(tmp_path_factory.getbasetemp().glob("two*/late"))
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-00000002"]


def test_ranks_that_read_other_rows_are_refused(both):
    """All ranks name the rank and the first row that differs, before any step."""
    for rank in both:
        assert rank["other row"]["error"].startswith("DataError: Rank 1 has read other training rows than rank 0")
        assert f"the first difference is in row {rows_apart()}," in rank["other row"]["error"]


def test_ranks_with_other_settings_are_refused(both):
    """All ranks tell each knob that differs, with both values."""
    for rank in both:
        error = rank["other knobs"]["error"]
        assert error.startswith("ConfigError: The processes of this run do not agree:")
        assert "config.seed: 0 on rank 0, 1 on rank 1" in error
        assert "config.weight_decay: 0.01 on rank 0, 0.5 on rank 1" in error


def test_a_refusal_leaves_the_processes_able_to_go_on(both):
    """After all of these errors the same two processes train as before."""
    for rank in both:
        assert rank["after all"]["state"] == rank["plain"]["state"]


def test_two_processes_share_what_is_to_be_written(both):
    """Of five texts one writes three and the other two; both know the score of one process that wrote them all."""
    first, second = (rank["written"] for rank in both)
    alone = writing(0, **PLAIN, batch_size=4, metrics=["chrf"])
    assert (first["written"], second["written"], alone["written"]) == ([3, 3], [2, 2], [5, 5])
    assert first["scores"] == second["scores"] and len(first["scores"]) == 2
    np.testing.assert_allclose(first["scores"], alone["scores"], rtol=1e-6)
