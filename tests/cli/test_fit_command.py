"""`petune fit`: options from the dataclasses, a file of settings, and what is left in the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import petune
from petune import TrainConfig, Tuner
from petune.cli import saving
from petune.cli.recipe import recipe_of
from petune.cli.yaml_file import read
from tests.cli.parts import QUICK
from tests.cli.test_door import ROOT, left

QUIET_CONFIG = TrainConfig(epochs=1, progress="off")


def test_an_adapter_lies_in_the_folder_with_its_settings(place: Path) -> None:
    """The options were honoured, the settings beside it say so, and they fit the same adapter again."""
    tuner = Tuner.load("runs/a")
    assert tuner.name == "a" and tuner.method.rank == 2 and tuner.classes_ == ("bad", "good")
    said, _ = read("runs/a/run.yaml")
    assert said["method"]["rank"] == 2 and said["epochs"] == 1 and said["eval_data"] == 0.25
    assert left("fit", "-c", "runs/a/run.yaml", "--out", "runs/again") == 0
    texts = ["a lovely film", "a dull one"]
    assert Tuner.load("runs/again").predict_proba(texts).tolist() == tuner.predict_proba(texts).tolist()


def test_options_win_over_the_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another method drops the knobs that the file has for the old one; --dry-run prints and trains nothing."""
    words = ("--method", "bottleneck", "--method.width", "6", "--no-keep-best", "--out", "runs/never", "--dry-run")
    assert left("fit", "-c", "runs/a/run.yaml", *words) == 0
    Path("dry.yaml").write_text(capsys.readouterr().out)
    said, _ = read("dry.yaml")
    assert said["method"]["name"] == "bottleneck" and said["method"]["width"] == 6 and "rank" not in said["method"]
    assert said["keep_best"] is False and said["epochs"] == 1 and not Path("runs/never").exists()


def test_json_tells_the_outcome(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """stdout holds one JSON object and nothing else, whatever was said on the way."""
    words = ("fit", "train.csv", "--model", "bert", "--out", "runs/json", "--method", "head", *QUICK, "--json")
    assert left(*words, "--task.max-length", "16") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == "runs/json" and told["steps"] == 3 and "history" not in told
    assert Tuner.load("runs/json").task.max_length == 16


def test_the_run_as_a_page(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--report writes the page of this run; without the packages for it, nothing is trained in vain."""
    words = ("fit", "train.csv", "--model", "bert", "--method", "head", *QUICK, "--report", "runs/page.html")
    assert left(*words, "--out", "runs/paged") == 0
    page = Path("runs/page.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and "paged" in page
    monkeypatch.setattr("petune.report.extra.PACKAGES", ("no_such_package",))
    assert left(*words, "--out", "runs/unpaged") == 2
    assert "no_such_package" in capsys.readouterr().err and not Path("runs/unpaged").exists()


@pytest.mark.parametrize(("terminal", "progress"), [(True, "auto"), (True, "off"), (False, "auto")])
def test_a_terminal_is_not_told_twice(
    place: Path, terminal: bool, progress: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of the run is printed where nobody has just seen it: into a pipe, or after a silent run."""
    tuner = Tuner.load("runs/a")
    tuner._report = Tuner("bert", task="sequence-classification").fit("train.csv", config=QUIET_CONFIG).report
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    told = saving.outcome(tuner, Path("runs/a"), as_json=False, shown=progress != "off")
    assert told.endswith("Saved runs/a") and ("steps" in told) != (terminal and progress == "auto")


def test_every_knob_of_a_method_is_an_option(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of fit follows the method and the task that are named."""
    assert left("fit", "--method", "adalora", "--task", "causal-lm", "--help") == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("--method.init-rank", "--task.prompt", "--learning-rate", "--out"))
    assert "--method.rslora" not in told


WRONG = [
    (["fit", "--epochs", "many"], 2, ["--epochs", "INTEGER"]),
    (["fit", "train.csv", "--model", "bert", "--out", "train.csv"], 2, ["train.csv is a file", "Name a folder"]),
    (["fit", "train.csv", "--model", "bert", "--out", "o", "--eval-data", "1.5"], 2, ["eval_data=1.5"]),
    (["fit", "train.csv", "--model", "bert", "--out", "o", "--resume", "auto"], 2, ["--output-dir"]),
    (["fit", "train.csv", "--model", "runs/a", "--out", "o"], 1, ["is an adapter", "--continue-from runs/a"]),
    (["fit", "--epochs", "0"], 2, ["epochs=0", "at least 1"]),
    (["fit", "--rank", "3"], 2, ["--method.rank"]),
    (["fit", "--method", "loar"], 2, ["no method 'loar'", "'lora'"]),
    (["fit", "--method", "prefix", "--method.lenght", "3"], 2, ["--method.length"]),
    (["fit", "train.csv", "--model", "bert"], 2, ["No folder", "--out"]),
    (["fit", "trian.csv", "--model", "bert", "--out", "x", "--progress", "off"], 1, ["trian.csv", "'train.csv'"]),
    (["fit", "train.csv", "--model", "brt", "--out", "x"], 1, ["brt"]),
    (["fit", "-c", "none.yaml"], 2, ["none.yaml", "petune init"]),
]


@pytest.mark.parametrize(("words", "code", "said"), WRONG, ids=str)
def test_wrong_input(
    place: Path, words: list[str], code: int, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake is named on stderr, with the near word where there is one; usage is 2, a job that fails is 1."""
    assert left(*words) == code
    told = capsys.readouterr()
    assert not [word for word in said if word not in told.err] and not told.out
    assert "Traceback" not in told.err and not Path("x").exists()


BROKEN = {
    "epochs: three": "f.yaml:1: 'three' does not fit",
    "train: a\nepochs: 0\n": "f.yaml:2: epochs=0 is out of range",
    "epoch: 3": "f.yaml:1: there is no knob 'epoch' here. Did you mean 'epochs'",
    "method:\n  name: lora\n  rnk: 3\n": "f.yaml:3: there is no knob 'rnk' here. Did you mean 'rank'",
    "method:\n  name: lora\n\n  rank: 0\n": "f.yaml:4: rank=0 is out of range",
    "method:\n  name: loar\n": "f.yaml:2: There is no method 'loar'",
    "method: {name: adalora, rank: 9, init_rank: 3}": "f.yaml:1: AdaLoRA(rank=9, init_rank=3) has nothing to prune",
    "epochs: 1\nseed: 0\nepochs: 2": "f.yaml:3: 'epochs' stands here a second time",
    "epochs: [1": "f.yaml:1: ",
    "train: &a x\nmodel: *a\nsets: &b [1]\nmore: *b\n": "f.yaml:3: ",
    "- 1": "holds a list",
    "patience: yes": "f.yaml:1: 'yes' does not fit",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_mistake_in_the_file_is_told_with_its_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """FILE:LINE and what is wrong there; the exit code is that of wrong usage."""
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text(text)
    assert left("fit", "-c", "f.yaml") == 2
    assert BROKEN[text] in capsys.readouterr().err


def test_all_mistakes_of_form_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, in the order of the file."""
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text("seed: a\nlearning_rate: fast\nmethod:\n  name: lora\n  rslora: perhaps\n")
    assert left("fit", "-c", "f.yaml") == 2
    assert [line.split(":")[1] for line in capsys.readouterr().err.replace("Error: ", "").splitlines()] == [
        "1",
        "2",
        "5",
    ]


def test_yaml_is_read_by_the_rules_of_today(tmp_path: Path) -> None:
    """`no` is a label, `1e-3` a number and `010` a text, unlike in YAML 1.1."""
    (tmp_path / "f.yaml").write_text(
        "learning_rate: 1e-3\ntask:\n  name: sequence-classification\n  labels: [no, yes]\n"
    )
    recipe = recipe_of(tmp_path / "f.yaml", {}, {})
    assert recipe.config.learning_rate == 1e-3 and recipe.task.labels == ("no", "yes")
    (tmp_path / "g.yaml").write_text("a: 010\nb: ~\nc: .5\nd: 1_000\ne: 2026-01-01\n")
    assert read(tmp_path / "g.yaml")[0] == {"a": "010", "b": None, "c": 0.5, "d": "1_000", "e": "2026-01-01"}


def test_the_program_itself(place: Path) -> None:
    """As a child process: the outcome on stdout, progress on stderr, exit code 0."""
    words = ["fit", "train.csv", "--model", "bert", "--out", "runs/child", "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "petune", *words], capture_output=True, text=True, timeout=300,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Saved runs/child" and "loss" in done.stderr
    assert petune.diagnose("runs/child").ok
