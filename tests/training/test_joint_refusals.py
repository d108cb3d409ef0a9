"""What a joint fit refuses before anything is trained, and how it tells how far it is."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
import torch
from peft import IA3Config

from petune import Head, Job, LoRA, fit_many
from petune.errors import AdapterError, BackboneError, ConfigError, DataError, MergeError, RouteError
from petune.training.callbacks import RunStart
from petune.training.memory import MemoryMeter
from petune.training.trainee import refuse_several_processes
from petune.training.watching import Board
from tests import tiny
from tests.training.crews import quick, still, tuner

ROWS = tiny.rows(12)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([], "There are no jobs"),
        ([ROWS], "is no job"),
        ([("one",)], "is no job"),
        ([("bert", ROWS)], "'bert' is no Tuner"),
    ],
)
def test_what_is_no_job_is_refused(jobs, words):
    """Nothing, rows in place of a job, a job without rows, a path in place of a Tuner."""
    with pytest.raises(ConfigError, match=words):
        fit_many(jobs)


@pytest.mark.parametrize(
    ("first", "second", "error", "words"),
    [
        ({}, {"mixed_precision": "bf16"}, ConfigError, "mixed_precision is 'no' for 'one' and 'bf16' for 'two'"),
        ({}, {"gradient_checkpointing": True}, ConfigError, "same gradient_checkpointing"),
        ({"backbone_dropout": False}, {}, ConfigError, "backbone_dropout is False for 'one' and True for 'two'"),
        ({"mixed_precision": "fp16"}, {"mixed_precision": "fp16"}, ConfigError, "fp16"),
        ({"output_dir": "here"}, {"output_dir": "./here"}, ConfigError, "same output_dir"),
        ({}, {"metric": "acuracy"}, ConfigError, "without eval data"),
        ({}, {"class_weight": {"nobody": 2.0}}, ConfigError, "nobody"),
    ],
)
def test_settings_that_cannot_be_together_are_refused(first, second, error, words):
    """What acts on the one backbone must agree, and what one fit refuses is refused for all."""
    model = still("bert")
    one, two = tuner(model, "one", "lora"), tuner(model, "two", "head")
    with pytest.raises(error, match=words):
        fit_many([(one, ROWS, None, quick(**first)), (two, ROWS, None, quick(**second))])
    for each in (one, two):
        with pytest.raises(AdapterError):
            _ = each.adapter


def test_methods_that_cannot_share_are_refused():
    """Full fine-tuning and peft's methods are told to be fitted alone, before any data is read."""
    model = still("bert")
    for method, words in (("full", "backbone of its own"), (IA3Config(), "replaces modules")):
        with pytest.raises(AdapterError, match=rf"'odd' cannot be trained with others.*{words}.*Fit it alone"):
            fit_many([(tuner(model, "one", "lora"), None), (tuner(model, "odd", method), None)])


def test_other_backbones_are_refused(tmp_path):
    """Other weights, architectures, types and padding are told; the tuners keep their own."""
    model, other = still("bert"), tuner(tiny.backbone("bert", seed=1), "two", "lora")
    for second, words in (
        (other, "their weights"),
        (tuner(tiny.backbone("gpt2"), "two", "lora"), "their architecture"),
        (tuner(still("bert").to(torch.bfloat16), "two", "lora"), "precision"),
    ):
        mine = second.backbone
        with pytest.raises(BackboneError, match=f"backbones of 'one' and 'two' differ in {words}"):
            fit_many([(tuner(model, "one", "lora"), ROWS), (second, ROWS)])
        assert second.backbone is mine


def test_one_tuner_holds_one_adapter():
    """The same tuner in two jobs, a tuner whose adapter is merged, and a resume from one folder are refused."""
    model = still("bert")
    one = tuner(model, "one", "lora").fit(ROWS, config=quick(epochs=1))
    with pytest.raises(ConfigError, match="One tuner has several jobs"):
        fit_many([(one, ROWS), (one, ROWS)])
    with pytest.raises(ConfigError, match="resume='here' names one place"):
        fit_many([(one, ROWS)], resume="here")
    with pytest.raises(ConfigError, match="resume='auto' needs a folder"):
        fit_many([(one, ROWS, None, quick())], resume="auto")
    with pytest.raises(ConfigError, match="TrainConfig"):
        fit_many([Job(one, ROWS, config={"epochs": 1})])
    one.merge()
    with pytest.raises(MergeError):
        fit_many([(tuner(model, "two", "head"), ROWS)])
    one.unmerge()
    assert one.predict(["a great film"])


def test_bad_rows_of_one_job_stop_all_before_anything_changes():
    """Data are read before an adapter is built; the old adapters stay."""
    model = still("bert")
    one = tuner(model, "one", "lora").fit(ROWS, config=quick(epochs=1))
    old = one.adapter
    with pytest.raises(DataError, match="single class"):
        fit_many([(one, ROWS), (tuner(model, "two", "head"), ROWS[::2])])
    assert one.adapter is old


def test_a_site_that_cannot_tell_rows_apart_is_refused():
    """DeBERTa's query and key maps also see relative positions; alone such an adapter can be trained."""
    model = still("deberta-v2", share_att_key=True)
    both = [(tuner(model, name, LoRA(targets=("query", "key"))), ROWS, None, quick()) for name in ("one", "two")]
    with pytest.raises(RouteError, match="leading axis"):
        fit_many(both)
    assert fit_many(both[:1])[0].predict(["a great film"])


def test_several_processes_are_refused():
    """Adapters that leave at different times cannot be synchronised; one adapter can."""
    several = SimpleNamespace(num_processes=2)
    refuse_several_processes(several, [SimpleNamespace()])
    with pytest.raises(ConfigError, match="2 processes"):
        refuse_several_processes(several, [SimpleNamespace()] * 2)


def test_one_notice_is_printed_once(capsys):
    """What is true of all jobs is said once, what is true of some with their names; progress='off' says nothing."""
    model = still("bert")

    def run(progress: str) -> str:
        jobs = [(tuner(model, name, "head"), ROWS, None, quick(progress=progress)) for name in ("one", "two")]
        fit_many([*jobs, (tuner(model, "three", Head()), tiny.rows(12, 3), None, quick(progress=progress))])
        return capsys.readouterr().err

    said = run("auto")
    assert said.count("text column: 'text'") == 1 and "three: 3 labels: bad, good, sport." in said
    assert "one, two: 2 labels: bad, good." in said
    assert run("off") == ""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def board(stream: io.StringIO, names: list[str], every: float = 0.0):
    """A board and a watcher for each name."""
    made = Board(MemoryMeter(torch.device("cpu")), stream, every)
    return made, [made.watcher(name) for name in names]


def row(step: int, loss: float) -> dict:
    """The row of a step."""
    return {"step": step, "loss": loss, "tokens_per_second": 1000.0}


def test_one_line_tells_of_all_runs():
    """Each run's step and loss while they are few; resumed, evaluated and ended runs are told by name."""
    stream = io.StringIO()
    made, (one, two) = board(stream, ["one", "two"])
    one.on_start(RunStart(9, 0, 3, []))
    two.on_start(RunStart(4, 2, 1, [], "accuracy", True))
    one.on_step(row(1, 0.5))
    two.on_step(row(3, 0.25))
    assert re.fullmatch(r"one 1/9 0\.5000  two 3/4 0\.2500  2,000 tokens/s  [\d,]+ MB", made.line())
    two.on_evaluate({"step": 3, "eval_accuracy": 0.75})
    two.on_evaluate({"step": 4, "eval_accuracy": 0.5})
    two.on_end(SimpleNamespace(stopped_early=True))
    one.on_end(None)
    assert "two: resumed after step 2/4" in stream.getvalue()
    assert "two: step 3/4  evaluation: accuracy 0.7500  best so far\n" in stream.getvalue()
    assert "two: step 4/4  evaluation: accuracy 0.5000\n" in stream.getvalue()
    assert "two: stopped early after step 3" in stream.getvalue()
    assert stream.getvalue().endswith("one: broke off after step 1\n")


def test_many_runs_are_summed_up():
    """Of many runs the line tells how far they are and the range of their losses; seldom lines are kept back."""
    stream = io.StringIO()
    made, watchers = board(stream, [f"run-{n}" for n in range(8)], every=1e9)
    for n, watcher in enumerate(watchers):
        watcher.on_start(RunStart(10, 0, 1, []))
        watcher.on_step(row(5, 1.0 + n))
    assert "8 runs, 50% of their steps  loss 1.0000 to 8.0000" in made.line()
    assert stream.getvalue() == ""


def test_a_terminal_shows_a_bar_for_each_run():
    """Every run has its bar and its loss; evaluations stay above them, and the end leaves nothing running."""
    stream = Terminal()
    made, (one, two) = board(stream, ["one", "two"])
    for watcher in (one, two):
        watcher.on_start(RunStart(4, 0, 1, []))
        watcher.on_step(row(4, 0.5))
    one.on_evaluate({"step": 4, "eval_accuracy": 0.75})
    for watcher in (one, two):
        watcher.on_end(SimpleNamespace(stopped_early=False))
    assert "one: step 4/4  evaluation: accuracy 0.7500" in stream.getvalue()
    assert "two 4/4 0.5000" in stream.getvalue()
    assert made._bars.finished
