"""The benchmark of tasks: what a section says, and that sections of other tasks stay. Figures are not asserted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import machine
from benchmarks.tasks import __main__ as benchmark


def section(**changes: Any) -> dict[str, Any]:
    """What a task's module gives."""
    return {**dict.fromkeys(benchmark.KEYS, "something"), **changes}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Modules by name in place of the real ones; results go to a folder of the test's."""
    modules: dict[str, Any] = {}
    monkeypatch.setattr(benchmark, "tasks", lambda: ["first", "second"])
    monkeypatch.setattr(benchmark, "_module", lambda name: SimpleNamespace(run=modules[name]))
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    return modules


def test_one_task_that_is_measured_again_leaves_the_others(fake: dict[str, Any], tmp_path: Path) -> None:
    """Sections are merged by name, and each says when it was measured, with which seed, on what."""
    fake |= {"first": lambda seed: section(scores=seed), "second": lambda seed: section(scores=seed)}
    assert benchmark.main(["--write"]) == 0
    assert benchmark.main(["--only", "second", "--seed", "7", "--write"]) == 0
    written = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert {name: part["scores"] for name, part in written["tasks"].items()} == {"first": 0, "second": 7}
    assert written["tasks"]["second"]["about"]["seed"] == 7
    assert written["tasks"]["second"]["about"]["cpu"]


def test_a_task_that_fails_keeps_no_other_from_running(fake: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    """The exit status tells of the failure, the other section is written, and one that lacks a word is refused."""
    fake |= {"first": lambda seed: {"task": "first"}, "second": lambda seed: section()}
    assert benchmark.main(["--write"]) == 1
    assert list(json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))["tasks"]) == ["second"]
    assert "says nothing of method" in capsys.readouterr().err


def test_every_module_with_run_is_a_name() -> None:
    """The folder is the registry here too, with dashes."""
    assert "regression" in benchmark.tasks()
