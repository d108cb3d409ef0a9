"""The program that runs the harnesses: by name, with their counts written down beside those of earlier runs."""

from __future__ import annotations

import json
import sys
import types

import pytest

from benchmarks import machine
from benchmarks.faults import __main__ as program
from benchmarks.faults import nursery


def test_every_harness_is_found():
    """The modules with `run` and `COUNT` are the harnesses; their supports are none."""
    found = program.harnesses()
    assert {"saving_kills", "training_kills", "power_cut", "racing_readers"} <= set(found)
    assert not {"nursery", "calls", "saves", "runs", "__main__"} & set(found)


@pytest.mark.parametrize(("failures", "status"), [(0, 0), (2, 1)])
def test_counts_are_kept_beside_those_of_others(tmp_path, monkeypatch, failures, status):
    """`--write` replaces the section of the harness alone, and failures are the exit status."""
    made = types.ModuleType("benchmarks.faults.made_up")
    made.COUNT, made.run = 3, lambda count, seed: {"count": count, "seed": seed, "failures": failures}
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(program, "harnesses", lambda: ["made_up"])
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    (tmp_path / "faults.json").write_text(json.dumps({"harnesses": {"other": {"counts": {}}}}))
    assert program.main(["--only", "made_up", "--seed", "7", "--write"]) == status
    kept = json.loads((tmp_path / "faults.json").read_text())["harnesses"]
    assert kept["made_up"]["counts"] == {"count": 3, "seed": 7, "failures": failures} and "other" in kept


def test_a_process_ends_as_it_ends():
    """The server tells exit statuses and signals, and survives a process that fails."""
    hand = nursery.at_hand()
    assert [hand.run("os:_exit", 3), hand.run("time:sleep", "no number"), hand.run("os:abort")] == [3, 1, -6]
