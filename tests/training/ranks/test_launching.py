"""`fit(processes=2)`: the adapter of one process with twice the batch, its errors, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from petune import TrainConfig, Tuner
from petune.errors import PetuneError, ProcessError
from petune.training.callbacks import Callback
from tests import tiny
from tests.training.crews import apart, same, tensors

ROWS, HELD = tiny.rows(60), tiny.rows(12, seed=3)


def config(batch: int = 4, **knobs: Any) -> TrainConfig:
    """Two epochs without anything that depends on the number of processes."""
    plain = {"epochs": 2, "learning_rate": 0.02, "group_by_length": False, "progress": "off"}
    return TrainConfig(**{**plain, "batch_size": batch, **knobs})


class Seen(Callback):
    """Writes down what it is told; with `kill`, ends the second launched process after that step."""

    def __init__(self, kill: int = 0) -> None:
        self.told: list[Any] = []
        self.kill = kill

    def on_start(self, start):
        self.told.append(("start", start.done, start.total))

    def on_step(self, row):
        self.told.append(row["step"])
        if row["step"] == self.kill:
            os.kill(launched()[1], signal.SIGKILL)

    def on_evaluate(self, row):
        self.told.append("evaluate")

    def on_end(self, report):
        self.told.append(report)


ORPHANS = """
from petune import TrainConfig, Tuner
from tests import tiny
tuner = Tuner(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
tuner.fit(tiny.rows(8), config=TrainConfig(progress="off"), processes=2)
"""


def launched(by: int | None = None) -> dict[int, int]:
    """Rank -> process id of what a process, by default this one, has launched."""
    found = {}
    for child in Path(f"/proc/{by or os.getpid()}/task").glob("*/children"):
        for pid in child.read_text().split():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {int(word[5:]): int(pid) for word in environment if word.startswith(b"RANK=")}
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Any]:
    """A whole run from a model, a run whose second process is killed, and that one resumed, from a folder."""
    out = tmp_path_factory.mktemp("launched")
    home = tiny.folder("bert", out, dropout=0.0)
    model, saving = tiny.backbone("bert", dropout=0.0), {"save_every": 3, "output_dir": out / "run"}
    whole, watched = Tuner(model, tokenizer=tiny.tokenizer("bert")), Seen()
    whole.fit(ROWS, HELD, config(), callbacks=[watched], processes=2)
    killed, killing = Tuner(home), Seen(kill=7)
    with pytest.raises(PetuneError) as error:
        killed.fit(ROWS, HELD, config(**saving), callbacks=[killing], processes=2)
    left = launched()
    resumed, resuming = Tuner(home), Seen()
    resumed.fit(ROWS, HELD, config(**saving), callbacks=[resuming], resume="auto", processes=2)
    alone = Tuner(model, tokenizer=tiny.tokenizer("bert")).fit(ROWS, HELD, config(8))
    return {"whole": whole, "watched": watched, "error": error.value, "killed": killed, "killing": killing,
            "left": left, "resumed": resumed, "resuming": resuming, "alone": alone}  # fmt: skip


def test_two_processes_are_one_with_twice_the_batch(runs):
    """Losses, figures and weights agree to rounding, and the tuner holds them as if it had trained itself."""
    whole, alone = runs["whole"], runs["alone"]
    assert apart(whole, alone) < 1e-4
    assert whole.report.steps == alone.report.steps == 16
    assert whole.report.best == pytest.approx(alone.report.best, rel=1e-4)
    ours, theirs = tensors(whole), tensors(alone)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)
    assert whole.predict(["a great film", "an awful film"]) == alone.predict(["a great film", "an awful film"])


def test_a_second_launch_ends_with_the_same_bits(runs):
    """A run from a folder, killed and resumed in between, ends as the whole one of a model that was handed over."""
    assert same(runs["resumed"], runs["whole"])
    assert runs["resuming"].told[0] == ("start", 6, 16)


def test_callbacks_are_called_here(runs):
    """Each step, each evaluation and the end are told once, to callbacks that need no import elsewhere."""
    steps = list(range(1, 17))
    told = [("start", 0, 16), *steps[:8], "evaluate", *steps[8:], "evaluate", runs["whole"].report]
    assert runs["watched"].told == told


def test_a_killed_process_ends_the_fit(runs):
    """The error names rank, step and checkpoint; nothing is kept, no process is left, and callbacks hear of the end."""
    error = runs["error"]
    assert type(error) is ProcessError and "Rank 1 of 2 was lost at step" in str(error)
    assert "resume='auto': it goes on from checkpoint-00000006" in str(error)
    assert not runs["left"] and runs["killing"].told[-1] is None
    with pytest.raises(PetuneError, match="no adapter yet"):
        _ = runs["killed"].adapter


def test_processes_that_are_not_ready_in_time_end_the_fit():
    """Start-up is bounded by process_timeout, and leaves no process and no adapter behind."""
    tuner = Tuner(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    with pytest.raises(ProcessError, match=r"Rank 0 of 2 was not ready to train in 0\.2 s"):
        tuner.fit(ROWS, config=config(process_timeout=0.2), processes=2)
    assert not launched() and not tuner._bank.residents


def test_ctrl_c_ends_the_processes(monkeypatch):
    """A signal to this process goes to all of them, and this one ends as the signal asks, with none left."""
    from petune.training.ranks.launching import Crew

    plain = Crew._launch

    def launch(crew):
        plain(crew)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Crew, "_launch", launch)
    tuner = Tuner(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    with pytest.raises(KeyboardInterrupt):
        tuner.fit(ROWS, config=config(), processes=2)
    assert not launched()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_launched_processes_do_not_outlive_their_parent():
    """`kill -9` of the process that called fit ends those that it has launched, whatever they are at."""
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], cwd=Path(__file__).parents[3])
    try:
        children, deadline = {}, time.monotonic() + 120
        while len(children) < 2 and time.monotonic() < deadline and parent.poll() is None:
            time.sleep(0.05)
            children = launched(parent.pid)
        assert len(children) == 2
        time.sleep(1.0)  # they have begun, and are far from done
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in children.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in children.values())


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
