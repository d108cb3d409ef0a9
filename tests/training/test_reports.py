"""What the reports hold and how they print; progress lines and class weights."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from petune.errors import ConfigError, DataError, UnknownNameError
from petune.training.callbacks import RunStart
from petune.training.class_weight import class_weights
from petune.training.evaluation import evaluate, logits_of
from petune.training.loop import train
from petune.training.memory import MemoryMeter
from petune.training.optimizer import rate_share
from petune.training.progress import PlainProgress, ProgressBar, make_progress
from petune.training.report import EvalReport
from tests.training.fakes import LABELS, FakeLearner, FakeTask, examples, settings


def run(callbacks=(), rows=24, **knobs):
    """The report of a run."""
    held_out = examples(12, seed=9)
    return train(FakeLearner(), FakeTask(), None, examples(rows), held_out, settings(**knobs), callbacks=callbacks)


def test_a_train_report_tells_the_run():
    """Counts, tokens and rows of the history are those of the run."""
    report = run(epochs=3)
    steps = [row for row in report.history if "loss" in row]
    assert report.steps == 18 == len(steps) and [row["step"] for row in steps] == list(range(1, 19))
    assert steps[5]["epoch"] == 1.0 and set(steps[0]) == {
        "step", "epoch", "loss", "learning_rate", "tokens_per_second", "seconds"
    }  # fmt: skip
    assert report.real_tokens == 3 * sum(len(example["input_ids"]) for example in examples(24))
    assert 0 < report.padding_share < 0.5 and report.tokens_per_second > 0
    assert report.trainable_parameters == sum(p.numel() for p in FakeLearner().parameters())
    assert report.memory_measured.startswith("the weights, and what this process grew")
    assert report.peak_memory_megabytes >= 0
    assert max(row["learning_rate"] for row in steps) == pytest.approx(0.01)


def test_grouping_by_length_saves_padding():
    """The share of padding is measured on what was really fed."""
    assert run(rows=200).padding_share < 0.5 * run(rows=200, group_by_length=False).padding_share


def test_a_train_report_prints_one_line_per_epoch_with_the_best_marked(tmp_path):
    """The table has the epochs, the figures and one `best`; JSON holds all of it."""
    report = run(epochs=3)
    lines = str(report).splitlines()
    assert lines[0].split() == ["epoch", "step", "loss", "rate", "eval_accuracy", "eval_loss"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    marked = [line for line in lines if line.endswith("best")]
    assert len(marked) == 1 and marked[0].split()[1] == str(report.best_step)
    assert "18 steps" in lines[4] and "real tokens/s" in lines[4]
    assert json.loads(report.to_json(tmp_path / "report.json"))["history"] == report.history
    assert json.loads((tmp_path / "report.json").read_text())["best"] == report.best
    assert "<table>" in report._repr_html_() and "accuracy" in repr(report)


def test_an_evaluation_is_a_mapping_that_prints_its_classes():
    """Floats by name, a table by class, the same as HTML and JSON."""
    report = evaluate(FakeLearner(), FakeTask(), None, examples(12), ("accuracy",), 4)
    assert isinstance(report, EvalReport) and set(report) == {"accuracy", "loss"} and report.rows == 12
    assert dict(**report)["loss"] > 0
    head, _, names, *rows = str(report).splitlines()
    assert head.startswith("accuracy 0.") and "12 rows" in head
    assert names.split() == ["label", "precision", "recall", "f1", "support"]
    assert [row.split()[0] for row in rows] == list(LABELS)
    assert report._repr_html_().count("<tr>") == 4
    assert json.loads(report.to_json())["per_class"] == report.per_class


def test_logits_come_in_the_order_of_the_rows_whatever_the_batch():
    """Sorting by length is undone, and batches of any size agree."""
    learner, rows = FakeLearner(dropout=0.5), examples(23)
    alone = [logits_of(learner, FakeTask(), None, [row], 1)[0] for row in rows]
    together = logits_of(learner, FakeTask(), None, rows, 5)
    assert all(piece.dtype == np.float32 and piece.shape == (3,) for piece in together)
    np.testing.assert_allclose(np.stack(together), np.stack(alone), atol=1e-6)


def test_unlabelled_rows_can_be_answered():
    """`predict` has no labels, and needs none."""
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3]}]
    assert len(logits_of(FakeLearner(), FakeTask(), None, rows, 8)) == 2


def test_the_evaluation_loss_is_the_mean_over_rows():
    """Neither the batch size nor smoothing nor class weights are in it."""
    learner, rows = FakeLearner(), examples(10)
    by_hand = torch.nn.functional.cross_entropy(
        torch.tensor(np.stack(logits_of(learner, FakeTask(), None, rows, 3))),
        torch.tensor([row["labels"] for row in rows]),
    )
    for size in (1, 3, 10):
        report = evaluate(learner, FakeTask(), None, rows, ("accuracy",), size)
        assert report["loss"] == pytest.approx(float(by_hand), abs=1e-6)


class Falls(FakeLearner):
    """Fails in its forward."""

    def forward(self, input_ids, attention_mask):
        raise RuntimeError("no memory")


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_also_after_an_error(training):
    """Dropout is off during the evaluation and what it was afterwards; gradients stay on for the caller."""
    for learner in (FakeLearner(), Falls()):
        learner.train(training)
        try:
            logits_of(learner, FakeTask(), None, examples(4), 2)
        except RuntimeError:
            assert isinstance(learner, Falls)
        assert learner.training is training and learner.modes == [False, training] and torch.is_grad_enabled()


def test_memory_has_one_meaning():
    """Progress and report start from the weights and see what is added to them; a peak stays when it is given back."""
    meter = MemoryMeter(torch.device("cpu"), weights=10 << 20)
    before = meter.now_megabytes
    assert 10 <= before < 30 and 10 <= meter.peak_megabytes < 30
    added = torch.ones(64 << 18)  # 64 MB, each page touched
    meter.sample()
    assert meter.now_megabytes > before + 60
    del added
    assert 70 < meter.peak_megabytes < 100


def test_plain_progress_says_where_the_run_is():
    """Steps, epochs, loss, speed, memory and the time left, in lines; evaluations too."""
    stream = io.StringIO()
    meter = MemoryMeter(torch.device("cpu"))
    report = run([PlainProgress(meter, stream, every_seconds=0)], epochs=2)
    lines = stream.getvalue().splitlines()
    assert len(lines) == report.steps + 2
    assert lines[0].startswith("step 1/12  epoch 0.17/2  loss ") and lines[0].endswith(" left")
    assert " tokens/s  " in lines[0] and " MB  " in lines[0]
    assert any(line.startswith("step 6/12  evaluation: accuracy 0.") for line in lines)


def test_plain_progress_is_quiet_in_between():
    """A short run says its last step and its evaluations, not each step."""
    stream = io.StringIO()
    run([PlainProgress(MemoryMeter(torch.device("cpu")), stream)], epochs=2)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["6/12", "12/12", "12/12"]


class Terminal(io.StringIO):
    """Says that a person watches."""

    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """The lines that a terminal of 80 columns shows in the end, and those that were ever on it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()


def test_a_terminal_gets_a_bar(monkeypatch):
    """Loss, speed, memory and the steps are in the bar; at the end the table of epochs and one line are left."""
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("TERM", "xterm-256color")
    meter, stream = MemoryMeter(torch.device("cpu")), Terminal()
    bar = make_progress(meter, stream)
    assert isinstance(bar, ProgressBar) and isinstance(make_progress(meter, io.StringIO()), PlainProgress)
    report = run([bar], epochs=3)
    lines = screen(stream.getvalue())
    bars = [line for line in lines if "/18" in line]
    assert bars and any(
        re.search(r"epoch \d/3 .* \d+/18 .* loss \d\.\d{4}  [\d,]+ tokens/s  [\d,]+ MB", line) for line in bars
    )
    left = [line.rstrip() for line in lines if line.strip()][-5:]
    assert left[0].split() == ["epoch", "step", "loss", "rate", "eval_accuracy", "eval_loss"]
    assert [line.split()[:2] for line in left[1:4]] == [["1", "6"], ["2", "12"], ["3", "18"]]
    assert [line.split()[1] for line in left[1:4] if line.endswith("best")] == [str(report.best_step)]
    assert left[4].startswith("18 steps in ")


def test_a_long_run_shows_its_last_epochs_and_its_best():
    """While it goes on the table stays short; the best epoch is in it however long ago it was."""
    bar = ProgressBar(MemoryMeter(torch.device("cpu")), Terminal())
    bar.on_start(RunStart(40, 0, 20, [], "accuracy", True))
    for epoch in range(1, 21):
        step = {"step": epoch, "epoch": float(epoch), "loss": 1.0, "learning_rate": 0.1, "tokens_per_second": 9.0}
        bar.on_step(step)
        bar.on_evaluate({"step": epoch, "epoch": float(epoch), "eval_accuracy": 0.9 if epoch == 2 else 0.5})
    shown = [list(column.cells) for column in bar._table.columns]
    assert shown[0] == ["2", *map(str, range(13, 21))] and shown[-1] == ["best", *[""] * 8]
    bar.on_end(None)
    assert "broke off after step 20/40" in bar._stream.getvalue()


def test_a_resumed_run_knows_its_best_epoch():
    """Evaluations before the start count, in lines and in the bar; figures where smaller is better as well."""
    stream = io.StringIO()
    plain = PlainProgress(MemoryMeter(torch.device("cpu")), stream)
    plain.on_start(RunStart(9, 3, 3, [{"step": 3, "epoch": 1.0, "eval_loss": 0.5}], "loss", False))
    plain.on_evaluate({"step": 6, "epoch": 2.0, "eval_loss": 0.6})
    plain.on_evaluate({"step": 9, "epoch": 3.0, "eval_loss": 0.4})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "resumed after step 3/9" and not lines[1].endswith("best so far")
    assert lines[2] == "step 9/9  evaluation: loss 0.4000  best so far"


def test_progress_can_be_off_and_is_on_by_default(capsys):
    """`progress="off"` prints nothing at all; `"auto"` prints to the standard error only."""
    run()
    assert capsys.readouterr() == ("", "")
    run(progress="auto")
    out, err = capsys.readouterr()
    assert out == "" and "step 12/12" in err


def test_balanced_class_weights_are_scikit_learns():
    """n / (C * count) for each class; the report says which weights were used."""
    rows = examples(24)
    weights = class_weights(FakeTask(), rows, settings(class_weight="balanced"))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=[row["labels"] for row in rows])
    assert list(weights) == list(LABELS) and list(weights.values()) == pytest.approx(list(expected))
    assert run(class_weight="balanced").class_weights == pytest.approx(weights)
    assert run().class_weights is None


def test_given_class_weights_change_what_is_learnt():
    """A class that weighs next to nothing is hardly learnt; others keep 1."""
    assert class_weights(FakeTask(), examples(9), settings(class_weight={"yes": 3})) == {"no": 1, "yes": 3, "maybe": 1}
    plain, weighted = run(epochs=1), run(epochs=1, class_weight={"no": 0.01, "yes": 0.01, "maybe": 0.01})
    assert weighted.history[0]["loss"] == pytest.approx(plain.history[0]["loss"] * 0.01)


def test_bad_class_weights_are_refused():
    """An unknown label is told with the near one; weights are positive numbers; numbers have no classes."""
    with pytest.raises(UnknownNameError, match="Did you mean 'maybe'"):
        run(class_weight={"mayby": 2.0})
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="class_weight"):
            run(class_weight={"yes": wrong})
    with pytest.raises(ConfigError, match="balanced"):
        run(class_weight="even")
    with pytest.raises(DataError):
        class_weights(FakeTask(labels=()), examples(4), settings(class_weight="balanced"))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_the_rate_rises_once_and_falls_to_the_end(schedule, total):
    """The peak is reached exactly, no step has rate 0, and the shares are in (0, 1]."""
    for warmup in (0.0, 0.06, 0.5):
        config = settings(lr_scheduler=schedule, warmup_ratio=warmup)
        shares = [rate_share(step, total, config) for step in range(total)]
        top = round(warmup * total)
        assert all(0 < share <= 1 for share in shares)
        assert shares[: top + 1] == sorted(shares[: top + 1]) and shares[top:] == sorted(shares[top:], reverse=True)
        assert top >= total or shares[top] == 1.0


def test_history_is_written_as_jsonl(tmp_path):
    """Each row of the report is one line of the file; a second fresh run starts the file anew."""
    for _ in range(2):
        report = run(output_dir=tmp_path)
        lines = (tmp_path / "history.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == report.history
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


def test_a_figure_that_is_not_finite_is_null_on_paper(tmp_path):
    """Whatever reads the files gets JSON; the report itself keeps the number."""

    def odd(y_true, y_pred):
        return math.nan

    report = run(output_dir=tmp_path, metrics=(odd,))
    assert math.isnan(report.history[-1]["eval_odd"])
    text = (tmp_path / "history.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert lines[-1]["eval_odd"] is None
    assert json.loads(report.to_json(), parse_constant=pytest.fail)["best"]["odd"] is None
    evaluated = EvalReport({"f1": math.inf}, [{"label": "a", "f1": math.nan}])
    assert json.loads(evaluated.to_json())["per_class"] == [{"label": "a", "f1": None}]


def test_class_weights_name_labels_as_the_data_do():
    """0 and 1 are the labels '0' and '1'."""
    rows, task = examples(9), FakeTask(labels=("0", "1", "2"))
    given = settings(class_weight={0: 1.0, 1: 2.0, 2.0: 3})
    assert class_weights(task, rows, given) == {"0": 1.0, "1": 2.0, "2": 3.0}
    with pytest.raises(UnknownNameError, match="no label '3'"):
        class_weights(task, rows, settings(class_weight={3: 1.0}))


def test_many_figures_are_wrapped():
    """A long list of figures takes several lines, and no name is parted from its number."""
    report = EvalReport({f"figure_{index}": index / 100 for index in range(30)}, rows=5)
    lines = str(report).splitlines()
    assert len(lines) > 3 and all(len(line) <= 100 for line in lines)
    assert all(f"figure_{index} {index / 100:.4f}" in str(report) for index in range(30))
