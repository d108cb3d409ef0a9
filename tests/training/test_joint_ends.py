"""How the runs of a joint fit end: early, badly, broken off, and resumed. None of it touches the others."""

from __future__ import annotations

import json

import pytest
import torch

from petune import Head, Job, LoRA, Prefix, fit_many
from petune.errors import CheckpointError, TrainingError
from petune.storage import checkpoint as storage
from petune.training.callbacks import Callback
from tests import tiny
from tests.conformance.subjects import same as same_state
from tests.conformance.subjects import snapshot
from tests.training.crews import again, alone, apart, losses, quick, same, still, tensors, tuner


class Stopped(BaseException):
    """The fit was broken off here."""


class StopAt(Callback):
    """Breaks off after a step; writes down how each run ended."""

    def __init__(self, step: int = 0) -> None:
        self.step, self.reports = step, []

    def on_step(self, row):
        if row["step"] == self.step:
            raise Stopped

    def on_end(self, report):
        self.reports.append(report)


def three(model, **knobs) -> list[Job]:
    """Three jobs with evaluations, of 12, 10 and 12 steps."""
    return [
        Job(tuner(model, "one", LoRA(rank=2)), tiny.rows(24), tiny.rows(8, seed=2), quick(**knobs)),
        Job(tuner(model, "two", Prefix(length=2)), tiny.rows(15, 3, seed=1), tiny.rows(9, 3),
            quick(batch_size=3, **knobs)),
        Job(tuner(model, "three", Head()), tiny.rows(24, seed=5), None, quick(**knobs)),
    ]  # fmt: skip


def test_an_early_stop_leaves_the_others_alone():
    """The run whose patience is over drops out; the others' curves are those of their solo runs."""
    model = still("bert")
    early = quick(optimizer="sgd", epochs=8, learning_rate=1e-9, patience=1)
    jobs = [Job(tuner(model, "early", "lora"), tiny.rows(12), tiny.rows(8), early), *three(model, optimizer="sgd")]
    made = fit_many(jobs)
    assert made[0].report.stopped_early and made[0].report.steps == 6
    assert not any(one.report.stopped_early for one in made[1:])
    for one, solo in zip(made, alone(jobs), strict=True):
        assert apart(one, solo) <= 1e-5, one.name
    assert made[0].report.seconds < min(one.report.seconds for one in made[1:])


def test_a_run_that_diverges_leaves_the_others_alone():
    """The others go on to their ends and are kept; then the error names the run, whose tuner has a finite adapter."""
    model = still("bert")
    watch = StopAt()
    wild = quick(optimizer="sgd", learning_rate=1e30, max_grad_norm=0)
    jobs = [
        *three(model, optimizer="sgd"),
        Job(tuner(model, "wild", "lora"), tiny.rows(12), None, wild, callbacks=[watch]),
    ]
    with pytest.raises(TrainingError, match=r"1 of 4 runs went wrong:\n  wild: The \w+ .*became .* at step") as caught:
        fit_many(jobs)
    assert "Lower the learning rate" in str(caught.value) and watch.reports == [None]
    for job, solo in zip(jobs[:3], alone(jobs[:3]), strict=True):
        assert apart(job.tuner, solo) <= 1e-5
    assert all(bool(tensor.isfinite().all()) for tensor in tensors(jobs[3].tuner).values())
    assert jobs[3].tuner.predict(["a great film"])
    with pytest.raises(TrainingError, match=r"(norm|loss) became"):
        fit_many(again(jobs[3:]))


def test_a_fit_that_is_broken_off_changes_nothing():
    """The tuners keep their old adapters, and no hook, flag, mode or attention setting is left behind."""
    model = still("bert")
    jobs = three(model)
    jobs[0].tuner.fit(tiny.rows(12), config=quick(epochs=1))
    before, old = snapshot(model), jobs[0].tuner.predict_proba(["a great film"])
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    watch = StopAt(step=4)
    with pytest.raises(Stopped):
        fit_many([*jobs[:2], Job(jobs[2].tuner, jobs[2].train, None, jobs[2].config, callbacks=[watch])])
    assert watch.reports == [None]
    assert (jobs[0].tuner.predict_proba(["a great film"]) == old).all()
    assert same_state(snapshot(model), before)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(Exception, match="no adapter yet"):
        _ = jobs[1].tuner.adapter


def places(tmp_path, jobs: list[Job], every: list[int]) -> list[Job]:
    """The jobs with a folder and an interval for each."""
    return [
        again([job], output_dir=tmp_path / job.tuner.name, save_every=n)[0] for job, n in zip(jobs, every, strict=True)
    ]


def stopped(jobs: list[Job], step: int) -> None:
    """Fits until the second job has made a step, and not further."""
    first, second, third = jobs
    with pytest.raises(Stopped):
        fit_many([first, Job(second.tuner, second.train, second.eval_data, second.config,
                             callbacks=[StopAt(step)]), third])  # fmt: skip


def test_a_joint_fit_that_was_saved_in_step_resumes_to_the_same_bits(tmp_path):
    """With dropout, and all runs saved after the same forwards, the resumed fit is the uninterrupted one."""
    model = tiny.backbone("bert")
    whole = fit_many(three(model))
    for step in (3, 9):
        jobs = places(tmp_path / str(step), three(model), [2, 2, 2])
        stopped(jobs, step)
        torch.rand(step)
        for one, other in zip(fit_many(again(jobs), resume="auto"), whole, strict=True):
            assert losses(one) == losses(other) and same(one, other), one.name
            assert one.report.notices[-1].startswith("Resumed after step")


def test_runs_that_were_saved_at_other_times_resume_each_from_its_own(tmp_path):
    """Without dropout the curves agree with the uninterrupted fit, wherever each run was; one is over already."""
    model = still("bert")
    jobs = places(tmp_path, three(model, optimizer="sgd"), [2, 5, 3])
    whole = fit_many(again(jobs, output_dir=None, save_every=None))
    stopped(jobs, 8)
    newest = [storage.found(tmp_path / name)[-1].name for name in ("one", "two", "three")]
    assert newest == ["checkpoint-00000008", "checkpoint-00000005", "checkpoint-00000006"]
    resumed = fit_many(again(jobs), resume="auto")
    for one, other in zip(resumed, whole, strict=True):
        assert apart(one, other) <= 1e-5, one.name
        assert one.report.best == pytest.approx(other.report.best, rel=1e-5)
    finished = fit_many(again(jobs), resume="auto")
    assert all(same(one, other) for one, other in zip(finished, resumed, strict=True))
    with pytest.raises(CheckpointError, match="earlier run"):
        fit_many(again(jobs))


def test_each_run_writes_its_own_history(tmp_path):
    """`history.jsonl` of each folder holds the rows of that run's report."""
    model = still("bert")
    jobs = [again([job], output_dir=tmp_path / job.tuner.name)[0] for job in three(model)]
    for one in fit_many(jobs):
        lines = (tmp_path / one.name / "history.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == one.report.history
