"""`petune doctor`: text of 80 columns, valid JSON, and an exit code that tells whether there is an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import petune
from tests.cli.test_door import left
from tests.doctor import folders

ROOT = Path(petune.__file__).parent.parent


def test_fine_folders_leave_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of several folders has its paragraph; warnings alone are no failure."""
    store = folders.store(tmp_path)
    (store / "own" / "optimizer.pt").touch()
    assert left("doctor", str(store / "own"), str(store / "by-peft")) == 0
    told = capsys.readouterr().out.split("\n\n")
    assert [part.split(": ")[1].split(",")[0] for part in told] == ["petune adapter", "peft adapter"]
    assert "1 warning" in told[0] and "fine" in told[1]


def test_an_error_leaves_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sick folder of several is enough; the others are told all the same."""
    folder = folders.own(tmp_path)
    assert left("doctor", str(tmp_path / "owm"), str(folder)) == 1
    told = capsys.readouterr()
    assert "Did you mean 'own'?" in told.out and "petune adapter, fine" in told.out and not told.err


def test_json_is_json(tmp_path: Path) -> None:
    """A list with one object per folder and nothing else on stdout, whatever the names are."""
    store = folders.store(tmp_path)
    (store / "own" / folders.ADAPTER).write_bytes(b"")
    (store / "own" / "\udcff\x1b[2J.pkl").touch()
    command = [sys.executable, "-m", "petune", "doctor", "--json", str(store), str(store / "by-peft")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert [one["ok"] for one in told] == [False, True]
    assert {one["kind"] for one in told[0]["inside"][1]["findings"]} == {"broken-container", "pickle"}


def test_text_survives_a_narrow_encoding(tmp_path: Path) -> None:
    """Names that stdout cannot encode do not end in a traceback."""
    folder = folders.own(tmp_path / "Grüße")
    command = [sys.executable, "-m", "petune", "doctor", str(folder)]
    env = {"PATH": "", "PYTHONIOENCODING": "ascii:backslashreplace", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0 and "fine" in done.stdout, done.stderr
