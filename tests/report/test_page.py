"""The report of a run: what is in it for every kind of task, and what users' words cannot do to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from petune import AdaLoRA, SequenceClassification, TrainConfig, Tuner
from petune.errors import ConfigError, DataError
from petune.report import page as pages
from tests import tiny
from tests.conformance.subjects import SMALL
from tests.kinds import KINDS
from tests.language import language_model
from tests.report.pages import Page
from tests.tuners import QUIET, ROWS, fresh

ALWAYS = {"curves", "evaluation", "data", "configuration", "cost", "loading"}
CONFIG = TrainConfig(epochs=2, **QUIET)
MATRIX = {"single": True, "tokens": True, "multi": False, "regression": False, "causal": False, "seq2seq": False}
"""Kinds of tasks that have a matrix of confusions, or not."""


def tuner_of(kind: str) -> Tuner:
    """A tuner for a kind of task, on the last family that can have it."""
    known = KINDS[kind]
    task = SequenceClassification(problem_type="regression") if kind == "regression" else known.task()
    family = "bert" if "bert" in known.families else known.families[0]
    writes = task.generates and task.reads == "tokenizer"
    backbone = language_model(family) if writes else tiny.backbone(family)
    return Tuner(backbone, task=task, tokenizer=known.reads(family))


def written(tuner: Tuner, folder: Path, data: object = None) -> Page:
    """The report of a tuner, checked for what holds of all of them."""
    made = Page(tuner.write_report(folder / "a" / "report.html", data))
    assert made.size < 500_000
    assert "script" not in made.tags and not re.search(r"https?://(?!www\.w3\.org/)", made.source)
    assert all(link.startswith(("#", "data:")) for link in made.links)
    assert not list((folder / "a").glob(".*")), "nothing but the report is left"
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_has_a_report(kind, tmp_path):
    """All that applies is there, each row's loss is a part of the evaluation's, and nothing asks for a network."""
    tuner = tuner_of(kind).fit(KINDS[kind].rows(24), eval_data=0.25, config=CONFIG)
    made = written(tuner, tmp_path)
    assert made.names >= ALWAYS
    if kind in MATRIX:
        assert ("confusion" in made.names) == MATRIX[kind]
        assert ("Given and answered" in made.source) == (kind == "regression")
        assert "6 held-out rows" in made.sections["evaluation"] and "Held out 6 of 24 rows" in made.sections["data"]
    for name in tuner.evaluate(KINDS[kind].rows(24), generate=False):  # a report lets no model write
        assert name in made.sections["evaluation"]


def test_figures_and_classes_are_those_of_an_evaluation(tmp_path):
    """The report of given rows tells what `evaluate` tells of them, with the matrix that belongs to it."""
    rows = tiny.rows(12, seed=5)
    tuner = fresh().fit(ROWS, config=CONFIG)
    figures = tuner.evaluate(rows)
    made = written(tuner, tmp_path, rows)
    assert "the rows that were given (12 rows)" in made.sections["evaluation"]
    assert f"accuracy {figures['accuracy']:.4f}" in made.sections["evaluation"]
    answers = tuner.predict([row["text"] for row in rows])
    for given in ("bad", "good"):
        counts = [sum(row["label"] == given and answer == other for row, answer in zip(rows, answers, strict=True))
                  for other in ("bad", "good")]  # fmt: skip
        assert f"{given} {counts[0]} {counts[1]}" in made.sections["confusion"]


def test_the_rows_of_highest_loss_come_first_and_wrong_labels_are_marked(tmp_path):
    """A label that is wrong against all that was learnt is found: first, and marked."""
    tuner = fresh(method="full").fit(tiny.rows(60), config=TrainConfig(epochs=12, learning_rate=5e-3, **QUIET))
    rows = tiny.rows(30, seed=4)
    wrong = [dict(row) for row in rows]
    wrong[7]["label"] = "good" if rows[7]["label"] == "bad" else "bad"
    assert tuner.predict_proba([rows[7]["text"]]).max() > 0.9, "the model has learnt its words"
    made = written(tuner, tmp_path, wrong)
    assert "There is 1 such row in all" in made.sections["rows"] or "such rows in all" in made.sections["rows"]
    first = made.source.split('<ol class="rows">')[1].split("</li>")[0]
    assert "row 7" in first and "likely label error" in first and rows[7]["text"] in first
    assert made.source.split('<ol class="rows">')[1].split("</ol>")[0].count("<li>") == 20
    clean = written(tuner, tmp_path, rows)
    assert clean.source.count(">likely label error<") < made.source.count(">likely label error<")


def test_words_of_users_are_data(tmp_path):
    """Markup, template language, quotes and formulas in names, labels and texts are shown as they are."""
    odd = ["<script>alert(1)</script>", "{{ 7 * 7 }} {% raw %}", "$\\frac{a}{b}$ & \"q\" 'p'"]
    rows = [{"text": f"{row['text']} {odd[i % 3]}", "label": odd[i % 3]} for i, row in enumerate(tiny.rows(18))]

    def odd_figure(y_true, y_pred):
        return 0.5

    odd_figure.__name__ = "<b>$x_{1$</b>"
    config = TrainConfig(epochs=1, metrics=(odd_figure,), metric="<b>$x_{1$</b>", greater_is_better=True, **QUIET)
    tuner = fresh(name="<i>{{ name }}").fit(rows, eval_data=rows, config=config)
    made = written(tuner, tmp_path)
    assert {"i", "script"}.isdisjoint(made.tags) and "49" not in made.sections["confusion"].split()
    assert (
        made.sections[""].startswith("<i>{{ name }} · petune report")
        and "<script>alert(1)</script>" in made.sections["confusion"]
    )
    assert "<b>$x_{1$</b>" in made.sections["curves"]
    assert "&lt;i&gt;" in tuner._repr_html_() and "<i>" not in tuner._repr_html_()


def test_a_large_run_stays_small(tmp_path):
    """Hundreds of labels, long texts and thousands of steps are cut; what is left out is told."""
    rows = [{"text": "word " * 300, "label": f"label {index % 150:03}"} for index in range(300)]
    tuner = fresh().fit(rows, eval_data=rows, config=TrainConfig(epochs=1, progress="off", batch_size=100))
    step = tuner.report.history[0]
    tuner.report.history[:] = [{**step, "step": index + 1} for index in range(5000)]
    tuner._history = tuner.report.history
    made = written(tuner, tmp_path)
    assert "the 60 of 150 with the lowest F1" in made.sections["evaluation"]
    assert "12 labels with the most mistakes of 150" in made.sections["confusion"]
    assert "the first 60 of 150" in made.sections["data"] and "word " * 60 not in made.source


def test_adalora_shows_where_its_ranks_are(tmp_path):
    """The map has each site's rank; a LoRA of one rank everywhere has no map."""
    tuner = fresh(method=AdaLoRA(**SMALL["adalora"])).fit(tiny.rows(40), config=TrainConfig(epochs=4, **QUIET))
    ranks = [len(named["lora_A"]) for named in tuner.adapter.tensors().values()]
    assert len(set(ranks)) > 1
    made = written(tuner, tmp_path)
    assert f"{sum(ranks)} ranks in all, at most {max(ranks)} at a site" in made.sections["ranks"]
    assert "attention.self.query" in made.sections["ranks"]
    assert "ranks" not in written(fresh().fit(ROWS, config=CONFIG), tmp_path).names


def test_a_loaded_adapter_has_a_report_of_what_is_known(tmp_path):
    """Curves come from the saved history; without rows there is no evaluation, and without a fit no cost."""
    saved = fresh().fit(ROWS, eval_data=0.25, config=CONFIG).save(tmp_path / "saved")
    loaded = Tuner.load(saved, backbone=tiny.backbone("bert"))
    made = written(loaded, tmp_path)
    assert made.names == {"curves", "data", "configuration", "cost", "loading"} and "Versions" in made.sections["cost"]
    assert "peak memory" not in made.sections["cost"] and "epochs 2" in made.sections["configuration"]
    assert written(loaded, tmp_path, ROWS).names >= ALWAYS


def test_training_rows_are_told_and_changed_data_too(tmp_path):
    """Without evaluation rows the figures flatter, and a file that has changed since the fit is not the fit's."""
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS))
    tuner = fresh().fit(path, config=CONFIG)
    made = written(tuner, tmp_path)
    assert "the figures flatter" in made.sections["evaluation"] and "have changed" not in made.source
    assert "train.csv, line 2" in made.sections["rows"] and str(tmp_path) not in made.source
    with path.open("a") as file:
        file.write("a new row,good\n")
    assert "not those of the fit any more" in written(tuner, tmp_path).sections["evaluation"]
    path.unlink()
    with pytest.raises(DataError, match=r"train\.csv"):
        tuner.write_report(tmp_path / "gone.html")
    assert not (tmp_path / "gone.html").exists()


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    """Without Jinja2 or matplotlib the error names the extra, and nothing is written."""
    tuner = fresh().fit(ROWS, config=CONFIG)
    monkeypatch.setattr("petune.report.extra.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"jinja2 and matplotlib, which are not installed. Run pip install petune\[report\]"
    ):
        tuner.write_report(tmp_path / "report.html")
    with pytest.raises(ConfigError, match=r"A plot needs matplotlib"):
        tuner.plot()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_file_to_write(tmp_path):
    """The near path is suggested."""
    with pytest.raises(ConfigError, match=r"report\.html"):
        fresh().fit(ROWS, config=CONFIG).write_report(tmp_path)


def test_two_reports_differ_only_in_their_date(tmp_path):
    """The same run gives the same page: drawings have no random names."""
    tuner = fresh().fit(ROWS, eval_data=0.25, config=CONFIG)
    one, two = (
        re.sub(r"written [^<]*<", "", pages.page(pages.Told(tuner._work, tuner.report, tuner._history, tuner._given)))
        for _ in "ab"
    )
    assert one == two
    ids = re.findall(r' id="([^"]+)"', one)
    assert len(ids) == len(set(ids))
