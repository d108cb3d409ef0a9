"""Trackers are told what the history is told, and nobody is told anything unless it was asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import tracking as accelerates
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from petune import TrainConfig
from petune.errors import ConfigError, TrainingError, UnknownNameError
from petune.training import tracking
from petune.training.loop import train
from petune.training.tracking import refuse_trackers
from tests.training.fakes import FakeLearner, FakeTask, examples, settings
from tests.tuners import ROWS, fresh

ROOT = Path(__file__).parents[2]
SECONDS = 180
"""A process of wandb's may take so long."""


def run(callbacks=(), **knobs):
    """The report of a run."""
    held_out = examples(12, seed=9)
    return train(FakeLearner(), FakeTask(), None, examples(24), held_out, settings(**knobs), callbacks=callbacks)


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard reads in a folder."""
    return EventAccumulator(str(folder / tracking.PROJECT)).Reload()


def test_tensorboard_reads_every_row_of_the_history(tmp_path):
    """Losses, rates and evaluations stand at their steps in the event files, as the report has them."""
    report = run(output_dir=tmp_path, log_with="tensorboard", epochs=2)
    told = events(tmp_path)
    steps = [row for row in report.history if "loss" in row]
    evaluated = [row for row in report.history if "eval_loss" in row]
    for name, rows in (("loss", steps), ("learning_rate", steps), ("eval_accuracy", evaluated)):
        found = told.Scalars(name)
        assert [event.step for event in found] == [row["step"] for row in rows]
        assert [event.value for event in found] == pytest.approx([row[name] for row in rows])
    assert len(told.Scalars("epoch")) == len(steps)


def test_settings_are_stored_without_folders_of_this_machine(tmp_path):
    """Method, task and knobs are there in one level; where the run writes is not."""
    run(output_dir=tmp_path, log_with=["tensorboard"], epochs=1, weight_decay=0.25)
    (stored,) = (tmp_path / tracking.PROJECT).rglob("hparams.yml")
    text = stored.read_text()
    assert "config.weight_decay: 0.25" in text and "method.name" in text and "steps: 6" in text
    assert str(tmp_path) not in text


def test_nothing_is_told_by_default(tmp_path, monkeypatch):
    """Without `log_with` no tracker is made, and only the history is written."""
    monkeypatch.setattr(accelerates.TensorBoardTracker, "start", lambda self: pytest.fail("a tracker was started"))
    run(output_dir=tmp_path, epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


class Watching(accelerates.GeneralTracker):
    """Writes down what it is told."""

    name, requires_logging_directory = "watching", False
    told: list = []  # noqa: RUF012

    def __init__(self, run_name: str) -> None:
        self.tracker = run_name
        super().__init__()

    def start(self) -> None:
        self.told.append("start")

    def store_init_configuration(self, values) -> None:
        self.told.append(values)

    def log(self, values, step=None, **_) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finish")


@pytest.fixture
def watched(monkeypatch) -> list:
    """A tracker of a program's own, registered with Accelerate under the name `watching`."""
    monkeypatch.setitem(accelerates.LOGGER_TYPE_TO_CLASS, "watching", Watching)
    monkeypatch.setattr(Watching, "told", [])
    return Watching.told


def test_a_registered_tracker_is_known_by_its_name(watched):
    """It gets the settings, then every row with its step, then the end, once."""
    report = run(log_with="watching", epochs=1)
    assert watched[0] == "start" and watched[1]["trainable_parameters"] == report.trainable_parameters
    assert [step for step, _ in watched[2:-1]] == [row["step"] for row in report.history]
    assert watched[-1] == "finish" and watched.count("finish") == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_trackers_end_with_a_run_that_broke_off(watched, error):
    """Whatever ends the run, the tracker is finished."""

    class Breaks(tracking.Callback):
        def on_step(self, row):
            raise error("enough")

    with pytest.raises(error):
        run([Breaks()], log_with="watching")
    assert watched.count("finish") == 1 and watched[-1] == "finish"


def test_trackers_end_with_a_loss_that_is_not_finite(watched):
    """A run that diverges is told to its end too."""
    with pytest.raises(TrainingError):
        run(log_with="watching", learning_rate=1e30, optimizer="sgd", epochs=4, max_grad_norm=0.0)
    assert watched[-1] == "finish"


def test_names_are_checked_before_anything_is_read(tmp_path):
    """A near name is suggested; a folder and a package that are needed are named; no data were touched."""
    with pytest.raises(UnknownNameError, match=r"no tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        fresh().fit("there is no such file.csv", config=TrainConfig(log_with="tensorbord"))
    with pytest.raises(ConfigError, match="log_with='tensorboard' was given without output_dir"):
        fresh().fit(ROWS, config=TrainConfig(log_with=("tensorboard",)))
    with pytest.raises(ConfigError, match=r"needs the package comet_ml.*pip install comet_ml"):
        refuse_trackers(TrainConfig(log_with="comet_ml", output_dir=tmp_path))
    with pytest.raises(ConfigError, match="log_with=3 does not fit"):
        TrainConfig(log_with=3)
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_may_have_other_trackers(tmp_path, watched):
    """`log_with` is no part of what a run is."""
    whole = run(epochs=2)
    run(epochs=2, output_dir=tmp_path, save_every=6)
    held_out = examples(12, seed=9)
    config = settings(epochs=2, output_dir=tmp_path, save_every=6, log_with="watching")
    again = train(FakeLearner(), FakeTask(), None, examples(24), held_out, config, resume="auto")
    assert [row["step"] for row in again.history] == [row["step"] for row in whole.history] and watched


WANDB = """
import sys
from tests.training.test_trackers import run

report = run(output_dir=sys.argv[1], log_with=["wandb", "tensorboard"], epochs=1)
print("steps", report.steps)
"""


def test_wandb_writes_an_offline_run(tmp_path):
    """With WANDB_MODE=offline a run's file lies in output_dir, and no network is asked for."""
    environment = {
        **os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": str(ROOT),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"), "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
    }  # fmt: skip
    command = [sys.executable, "-c", WANDB, str(tmp_path / "run")]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0 and "steps 6" in done.stdout, done.stderr
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    text = file.read_bytes()
    assert b"eval_accuracy" in text and b"trainable_parameters" in text
    assert not (tmp_path / "wandb").exists()
    assert [event.step for event in events(tmp_path / "run").Scalars("loss")] == [1, 2, 3, 4, 5, 6]
