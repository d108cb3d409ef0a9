"""Ctrl-C and SIGTERM end a run between two steps, with a checkpoint, and are what they were afterwards."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from petune import Job, fit_many
from petune.errors import CheckpointError
from petune.storage import checkpoint as storage
from petune.training import heeding
from petune.training.callbacks import Callback
from petune.training.loop import train
from tests import tiny
from tests.training.crews import apart, losses, quick, still, tuner
from tests.training.fakes import FakeLearner, FakeTask, examples, settings
from tests.training.several import launch
from tests.training.test_resume import KNOBS, STEPS, Noisy, facts, run


class Send(Callback):
    """Sends this process a signal in a step, some times."""

    def __init__(self, step: int, number: int = signal.SIGTERM, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def on_step(self, row):
        if row["step"] == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
                time.sleep(0.01)


def stopped(folder, callback, error, **more):
    """The error that ends a run which a callback sends a signal to."""
    config = settings(**{**KNOBS, "output_dir": folder, **more})
    before = [signal.getsignal(number) for number in heeding.HEEDED]
    with pytest.raises(error) as caught:
        train(Noisy(dropout=0.3), FakeTask(), None, examples(22), examples(9, seed=5), config, callbacks=[callback])
    assert [signal.getsignal(number) for number in heeding.HEEDED] == before
    return caught.value


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("step", [1, 4, 7, STEPS])
def test_a_signal_saves_the_step_and_leaves(tmp_path, number, error, step):
    """In the first step, at the end of an epoch, in mid-epoch or in the last one: the same bits after going on."""
    whole = facts(*run())
    left = stopped(tmp_path, Send(step, number), error, save_every=100)
    assert [path.name for path in storage.found(tmp_path)] == [f"checkpoint-{step:08d}"]
    assert facts(*run(tmp_path, resume="auto", every=100)) == whole
    if step < STEPS:
        told = f"Stopped after step {step} of {STEPS}; {tmp_path} holds a checkpoint of it. resume='auto' goes on."
        assert told in (left.__notes__ if error is SystemExit else left.args)
    assert error is KeyboardInterrupt or left.code == 143


def test_what_is_saved_already_is_not_saved_twice(tmp_path):
    """A signal in a step that had its checkpoint leaves that one checkpoint."""
    stopped(tmp_path, Send(4), SystemExit, save_every=2)
    assert [path.name for path in storage.found(tmp_path)] == ["checkpoint-00000002", "checkpoint-00000004"]


def test_without_checkpoints_it_is_said_that_nothing_is_kept(tmp_path, capsys):
    """A run without `save_every` ends between two steps as well, and says what would have kept it."""
    left = stopped(tmp_path, Send(2), SystemExit, progress="auto")
    assert "Nothing is kept of it: TrainConfig(output_dir=..., save_every=...)" in left.__notes__[0]
    assert left.__notes__[0] in capsys.readouterr().err
    assert not storage.found(tmp_path)


def test_a_second_one_leaves_at_once(tmp_path, monkeypatch):
    """Who insists is not kept waiting: no checkpoint is written. The echo of a launcher is no second signal."""
    monkeypatch.setattr(heeding, "IMPATIENT_SECONDS", 0.0)
    stopped(tmp_path / "at once", Send(3, signal.SIGINT, times=2), KeyboardInterrupt, save_every=100)
    assert not storage.found(tmp_path / "at once")
    monkeypatch.setattr(heeding, "IMPATIENT_SECONDS", 60.0)
    stopped(tmp_path / "echo", Send(3, signal.SIGINT, times=2), KeyboardInterrupt, save_every=100)
    assert len(storage.found(tmp_path / "echo")) == 1


def test_the_programs_own_handler_is_called(tmp_path):
    """Who handles SIGTERM hears of it once the checkpoint is there, and has the signal back."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(len(storage.found(tmp_path))))
    try:
        stopped(tmp_path, Send(3), SystemExit, save_every=100)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]


def test_an_ignored_signal_stays_ignored(tmp_path):
    """A program under nohup, or in the background of a shell, trains on."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = settings(**KNOBS)
        report = train(Noisy(), FakeTask(), None, examples(22), examples(9), config, callbacks=[Send(3, signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert report.steps == STEPS


def test_other_threads_leave_signals_alone():
    """Only the main thread may take signals over; a fit in another one runs as ever."""
    reports = []

    def work() -> None:
        reports.append(train(FakeLearner(), FakeTask(), None, examples(8), None, settings()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert reports[0].steps == 4


def test_all_runs_of_a_joint_fit_are_saved_between_steps(tmp_path):
    """Runs whose steps take a different number of forwards each finish theirs; each goes on where it stopped."""
    model = still("bert")

    def jobs(folder=None, callbacks=()):
        made = [
            Job(tuner(model, "a", "lora"), tiny.rows(24), None, quick(seed=3), callbacks=callbacks),
            Job(tuner(model, "b", "lora"), tiny.rows(24, seed=1), None, quick(gradient_accumulation_steps=3)),
        ]
        if folder is None:
            return made
        kept = {"save_every": 100}
        return [replace(j, config=replace(j.config, output_dir=folder / j.tuner.name, **kept)) for j in made]

    with pytest.raises(SystemExit) as caught:
        fit_many(jobs(tmp_path, [Send(4)]))
    assert [line[:21] for line in caught.value.__notes__] == ["Stopped after step 4 ", "Stopped after step 2 "]
    for one, other in zip(fit_many(jobs(tmp_path), resume="auto"), fit_many(jobs()), strict=True):
        assert apart(one, other) <= 1e-5 and len(losses(one)) == len(losses(other))


def test_a_second_writer_is_refused(tmp_path):
    """A run in a folder that another one is writing to is told so before it changes anything."""
    seen: list[str] = []

    class Other(Callback):
        def on_step(self, row):
            if row["step"] == 2:
                with pytest.raises(CheckpointError, match="Another process or thread is writing to") as caught:
                    run(tmp_path, resume="auto")
                seen.append(str(caught.value))

    config = settings(**KNOBS, output_dir=tmp_path, save_every=1)
    train(Noisy(), FakeTask(), None, examples(22), examples(9), config, callbacks=[Other()])
    assert len(seen) == 1 and str(tmp_path) in seen[0]


def test_all_processes_leave_after_the_same_step(tmp_path):
    """One process alone hears of SIGTERM: both finish the same step, one writes, and both go on to the same bits."""
    jobs = {"job": {"kind": "leave", "folder": str(tmp_path / "run")}}
    for answer in launch(tmp_path / "out", "tests.training.signal_jobs", jobs):
        assert answer["job"]["told"][0] == 143 and "Stopped after step 7 of 12" in answer["job"]["told"][1]
        assert answer["job"]["there"] == ["checkpoint-00000007"] and answer["job"]["same"]
