"""Stopped anywhere and resumed, a run ends with the same bits as one that was never stopped."""

from __future__ import annotations

import json
import random
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch

from petune.errors import CheckpointError, ConfigError
from petune.storage import checkpoint as storage
from petune.storage import sealing
from petune.training import trainee
from petune.training.callbacks import Callback
from petune.training.identity import fingerprint
from petune.training.loop import train
from tests.training.fakes import FakeLearner, FakeTask, Shaping, examples, settings

KNOBS = {
    "epochs": 3,
    "batch_size": 3,
    "gradient_accumulation_steps": 2,
    "patience": 2,
    "learning_rate": 0.05,
    "metric": "loss",
    "class_weight": "balanced",
}
STEPS = 12


class Killed(BaseException):
    """The run was cut here."""


class KillAt(Callback):
    """Cuts the run in a step, before its checkpoint is written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row):
        if row["step"] == self.step:
            raise Killed


class Noisy(FakeLearner):
    """Draws from every generator while it trains."""

    def forward(self, input_ids, attention_mask):
        logits = super().forward(input_ids, attention_mask)
        if self.training:
            return logits * (1 + 0.01 * random.random() + 0.01 * float(np.random.rand()))
        return logits


def run(folder=None, *, resume=None, kill_at=None, every=1, method=None, **more):
    """A learner after a run, and the report; the same run for each call, apart from `more`."""
    learner = Noisy(dropout=0.3, method=method)
    where = {"output_dir": folder, "save_every": every} if folder else {}
    config = settings(**{**KNOBS, **where, **more})
    callbacks = [KillAt(kill_at)] if kill_at else []
    report = train(
        learner, FakeTask(), None, examples(22), examples(9, seed=5), config, resume=resume, callbacks=callbacks
    )
    return learner, report


def facts(learner, report) -> tuple:
    """Everything that must be equal; times and speeds are not."""
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in report.history]
    state = {name: tensor.numpy().tobytes() for name, tensor in learner.state().items()}
    return rows, state, report.best, report.best_step, report.steps, report.real_tokens, report.padding_share


@pytest.mark.parametrize("every", [1, 3])
def test_killed_at_any_step_and_resumed_is_uninterrupted(tmp_path, every):
    """Every cut point, with dropout, AdamW, accumulation, buckets, class weights, patience and a best adapter."""
    whole = facts(*run())
    for cut in range(1, STEPS + 1):
        folder = tmp_path / str(cut)
        with pytest.raises(Killed):
            run(folder, kill_at=cut, every=every)
        torch.manual_seed(cut)  # what a new process has drawn before does not matter
        assert facts(*run(folder, resume="auto", every=every)) == whole, f"cut at step {cut}"


def test_rows_are_digested_once(tmp_path, monkeypatch):
    """However many checkpoints a run writes, it goes through its rows once for them."""
    digested = []
    monkeypatch.setattr(trainee, "fingerprint", lambda rows: digested.append(len(rows)) or fingerprint(rows))
    run(tmp_path, every=1)
    assert digested == [22, 9] and len(storage.found(tmp_path)) > 1


def test_killed_again_and_again(tmp_path):
    """A run that is killed after every single step still ends with the same bits."""
    whole = facts(*run())
    for cut in range(2, STEPS + 1):
        with pytest.raises(Killed):
            run(tmp_path, resume="auto", kill_at=cut)
    assert facts(*run(tmp_path, resume="auto")) == whole


def test_a_methods_buffers_and_last_word_are_resumed(tmp_path):
    """A method with a penalty, a buffer and a final form resumes to the same bits, best adapter included."""
    whole = facts(*run(method=Shaping()))
    with pytest.raises(Killed):
        run(tmp_path, kill_at=7, method=Shaping())
    assert facts(*run(tmp_path, resume="auto", method=Shaping())) == whole


def test_momentum_and_no_state_are_resumed(tmp_path):
    """SGD with momentum and without (which has no optimizer state at all)."""
    for momentum in (0.0, 0.9):
        more = {"optimizer": "sgd", "momentum": momentum}
        whole = facts(*run(**more))
        with pytest.raises(Killed):
            run(tmp_path / str(momentum), kill_at=6, **more)
        assert facts(*run(tmp_path / str(momentum), resume="auto", **more)) == whole


def test_a_finished_run_resumes_to_its_end(tmp_path):
    """Resuming what is done does no step and hands back the same; so does what patience had stopped."""
    for name, more in {"done": {}, "early": {"learning_rate": 1e-9, "patience": 1}}.items():
        first = facts(*run(tmp_path / name, every=5, **more))
        learner, report = run(tmp_path / name, resume="auto", every=5, **more)
        assert facts(learner, report) == first
        assert learner.forwards <= 1, "at most the last evaluation is repeated"


def test_auto_without_a_checkpoint_starts_afresh(tmp_path):
    """`resume="auto"` in an empty folder is an ordinary start."""
    assert facts(*run(tmp_path / "new", resume="auto")) == facts(*run())


def test_a_path_may_be_a_checkpoint_or_its_folder(tmp_path):
    """Both spellings resume; a path without a checkpoint is an error."""
    whole = facts(*run(tmp_path, every=4, keep_last=9))
    assert facts(*run(resume=tmp_path / "checkpoint-00000004")) == whole
    assert facts(*run(resume=str(tmp_path))) == whole
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        run(resume=tmp_path / "checkpoint-00000005")
    with pytest.raises(ConfigError, match="output_dir"):
        run(resume="auto")


def test_a_fresh_run_does_not_mix_with_an_older_one(tmp_path):
    """Without `resume` a folder that holds checkpoints is refused, and they stay."""
    run(tmp_path, every=4)
    with pytest.raises(CheckpointError, match="earlier run"):
        run(tmp_path, every=4)
    assert len(storage.found(tmp_path)) == 2


def test_a_changed_run_is_refused_with_the_differences(tmp_path):
    """Another configuration, method, task or other rows are told line by line; the learner is as it was."""
    run(tmp_path, every=6)
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path, resume="auto", every=6, batch_size=2, weight_decay=0.5)
    assert "config.batch_size: 3 in the checkpoint, 2 now" in str(caught.value)
    assert "config.weight_decay: 0.01 in the checkpoint, 0.5 now" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"method\.weight"):
        run(tmp_path, resume="auto", every=6, method=Shaping())
    config, learner = settings(**KNOBS, output_dir=tmp_path, save_every=6), FakeLearner()
    for task, rows, held_out, word in (
        (FakeTask(max_length=9), examples(22), examples(9, seed=5), r"task\.max_length"),
        (FakeTask(), examples(22, seed=1), examples(9, seed=5), "training rows"),
        (FakeTask(), examples(22), examples(9, seed=6), "evaluation rows"),
    ):
        with pytest.raises(CheckpointError, match=word):
            train(learner, task, None, rows, held_out, config, resume="auto")
    with pytest.raises(CheckpointError, match="backbone: 'absent' in the checkpoint, 'abc' now"):
        train(learner, FakeTask(), None, examples(22), examples(9, seed=5), config, resume="auto",
              identity={"backbone": "abc"})  # fmt: skip
    assert all(torch.equal(FakeLearner().state()[name], tensor) for name, tensor in learner.state().items())


def test_what_may_change_may_change(tmp_path):
    """Folder, interval, retention and progress are free on resume."""
    whole = facts(*run())
    with pytest.raises(Killed):
        run(tmp_path / "a", kill_at=5)
    (tmp_path / "a").rename(tmp_path / "b")
    assert facts(*run(tmp_path / "b", resume="auto", every=7, keep_last=1)) == whole
    assert [path.name for path in storage.found(tmp_path / "b")] == ["checkpoint-00000012"]


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    """The one before it is taken, with a warning that names the file, and the run still ends with the same bits."""
    whole = facts(*run())
    with pytest.raises(Killed):
        run(tmp_path, kill_at=8)
    newest = storage.found(tmp_path)[-1] / storage.TENSORS
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=f"{newest.parent.name}/{storage.TENSORS}"):
        resumed = run(tmp_path, resume="auto")
    assert facts(*resumed) == whole


@pytest.mark.parametrize("as_folder", [True, False])
def test_an_earlier_step_gone_on_from_by_hand_keeps_one_whole(tmp_path, as_folder):
    """keep_last=1 never drops what was just written for the sake of a later checkpoint, damaged as that one is."""
    whole = facts(*run())
    with pytest.raises(Killed):
        run(tmp_path, kill_at=9, every=2, keep_last=2)
    later = tmp_path / "checkpoint-00000008"
    (later / storage.TENSORS).write_bytes(b"x")
    resume = tmp_path if as_folder else tmp_path / "checkpoint-00000006"
    with warnings.catch_warnings(), pytest.raises(Killed):
        warnings.simplefilter("ignore", RuntimeWarning)
        run(tmp_path, resume=resume, kill_at=8, keep_last=1)
    written = tmp_path / "checkpoint-00000007"
    assert storage.read(written).step == 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert facts(*run(tmp_path, resume="auto", keep_last=1)) == whole


def resealed(path, change) -> None:
    """A checkpoint after somebody has changed its state and tensors and made every digest right again."""
    made = storage.read(path)
    state, tensors = json.loads(json.dumps(made.state)), dict(made.tensors)
    change(state, tensors)
    content = safetensors.torch.save(tensors)
    (path / storage.TENSORS).write_bytes(content)
    (path / storage.STATE).write_bytes(sealing.sealed(state.get("step", 0), state, content))


FORGED = {
    "no identity": (lambda s, t: s.pop("identity"), "'identity' is not there"),
    "no random state": (lambda s, t: s["training"].pop("rng"), r"'training\.rng' is not there"),
    "random words": (lambda s, t: s["training"]["rng"][0].update(python=[1]), "cannot be put back"),
    "a step of letters": (lambda s, t: s["identity"].update(processes="x"), r"'identity\.processes'"),
    "a step beyond the run": (lambda s, t: s.update(step=1000), "'step'"),
    "a good step beyond it": (lambda s, t: s.update(good_step=99), "'good_step'"),
    "tokens of letters": (lambda s, t: s.update(tokens=["a", "b", "c"]), "'tokens'"),
    "a selection of little": (lambda s, t: s.update(selection={"metric": "loss"}), "'selection'"),
    "no optimizer": (lambda s, t: [t.pop(n) for n in list(t) if n.startswith("optimizer/")], "lacks the tensor 'opt"),
    "half an optimizer": (lambda s, t: t.pop("optimizer/0/exp_avg"), "lacks the tensor 'optimizer/0/exp_avg'"),
    "a tensor more": (lambda s, t: t.update(x=torch.ones(1)), "has the tensor 'x'"),
    "another shape": (lambda s, t: t.update({"learner/norm.bias": torch.ones(3)}), r"'learner/norm\.bias' is .*\(3,\)"),
    "another type": (lambda s, t: t.update({"rng/0/torch": t["rng/0/torch"].int()}), "'rng/0/torch' is torch.int32"),
    "NaN": (lambda s, t: t["learner/norm.bias"].fill_(float("nan")), r"'learner/norm\.bias' holds values that are NaN"),
    "a bad best": (lambda s, t: t["best/norm.bias"].fill_(float("inf")), r"'best/norm\.bias' holds"),
    "no best": (lambda s, t: [t.pop(n) for n in list(t) if n.startswith("best/")], "lacks the tensor 'best/"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_checkpoint_is_refused(tmp_path, name):
    """Whole by its digests, and not what this run can go on with: an error with file and key, nothing silent."""
    change, words = FORGED[name]
    with pytest.raises(Killed):
        run(tmp_path, kill_at=11, every=10)
    (path,) = storage.found(tmp_path)
    resealed(path, change)
    with pytest.raises(CheckpointError, match=f"{path}.*{words}"):
        run(resume=path)


def test_the_history_file_has_each_row_once(tmp_path):
    """After a kill and a resume `history.jsonl` holds the report's rows, none twice and none torn."""
    with pytest.raises(Killed):
        run(tmp_path, kill_at=8, every=3)
    path = tmp_path / "history.jsonl"
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()][-1] == 8
    path.write_text(path.read_text() + '{"step": 9, "lo')
    _, report = run(tmp_path, resume="auto", every=3)
    assert [json.loads(line) for line in path.read_text().splitlines()] == report.history
    assert "Resumed after step 6 from checkpoint-00000006." in report.notices


def test_no_output_dir_touches_no_disk(tmp_path, monkeypatch):
    """Without `output_dir` a run writes nothing."""
    monkeypatch.chdir(tmp_path)
    run()
    assert list(tmp_path.iterdir()) == []
