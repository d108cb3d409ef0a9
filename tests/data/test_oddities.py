"""What is told of rows that are legal and odd, and what is not."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from petune import SequenceClassification, TrainConfig
from petune.data.oddities import MOJIBAKE
from petune.data.preparing import Prepared, prepare
from tests.tuners import QUIET, ROWS, TOKENIZER, fresh

ODD = [*ROWS, {"text": " ", "label": "bad"}]


def made(rows: Any, evaluation: Any = None, **knobs: Any) -> Prepared:
    """The rows prepared for a tiny BERT."""
    return prepare(SequenceClassification(**knobs), rows, evaluation, TOKENIZER, 64, 0)


@pytest.mark.parametrize("progress", ["auto", "off"])
def test_a_warning_reaches_the_user_whatever_the_progress(caplog, capfd, progress):
    """It goes through the logger once, and stands in the report; what was merely chosen is printed with progress."""
    tuner = fresh().fit(ODD, config=TrainConfig(epochs=1, **{**QUIET, "progress": progress}))
    (record,) = [record for record in caplog.records if record.name == "petune"]
    assert (record.levelno, record.getMessage()) == (logging.WARNING, tuner.report.notices[-1])
    assert "1 of 9 rows are empty" in record.getMessage() and "row 8" in record.getMessage()
    assert ("text column: 'text'" in capfd.readouterr().err) == (progress == "auto")


def test_other_processes_keep_quiet(caplog, monkeypatch):
    """Of several processes the first one warns for all."""
    monkeypatch.setenv("RANK", "1")
    fresh().fit(ODD, config=TrainConfig(epochs=1, **QUIET))
    assert not [record for record in caplog.records if record.name == "petune"]


@pytest.mark.parametrize(
    "text",
    [
        "É» et «À»",
        "IRMÃ”",
        "naïve café",
        "Ünïcödé",
        "“quoted” – dashed… 10 £ à 20 €",
        "Ελληνικά",
        "Привет",
        "日本語",
        "Ð",
        "Â",
        "SÃO",
    ],
)
def test_text_of_many_languages_is_no_mojibake(text):
    """Accents, quotation marks and other scripts are what they are."""
    assert not MOJIBAKE.search(text)


@pytest.mark.parametrize("text", ["für das Café – „gut“", "the naïve café’s menu", "не так"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_utf8_read_in_another_encoding_is_told(text, encoding):
    """Whatever of it can be read in that encoding at all."""
    wrong = text.encode().decode(encoding, errors="ignore")
    assert MOJIBAKE.search(wrong)


def test_labels_that_the_user_named_are_meant():
    """Only learnt labels are looked at for spelling; a named one that is on no row is told all the same."""
    rows = [{"text": f"film {n}", "label": label} for n, label in enumerate(["Good", "good", "nan", "Good"])]
    assert len(made(rows).warnings) == 2
    assert made(rows, labels=("Good", "good", "nan")).warnings == []
    (only,) = made(rows, labels=("Good", "good", "nan", "bad")).warnings
    assert only == "the data: no row has 'bad' in column 'label'."


def test_the_order_of_several_labels_contradicts_nothing():
    """The same text with the same labels in another order is a row that occurs twice."""
    rows = [{"text": "film", "label": ["a", "b"]}, {"text": "film", "label": ["b", "a"]}, {"text": "a", "label": []}]
    (only,) = made(rows).warnings
    assert only == "the data: 1 rows occur twice or more (first: row 1, as row 0)."


def test_numbers_of_one_text_may_differ():
    """Two ratings of one text are data like any other."""
    rows = [{"text": "film", "label": 0.5}, {"text": "film", "label": 1.5}]
    assert made(rows).warnings == []


def test_evaluation_rows_are_looked_at_too():
    """Their texts, with a word on whose they are; their labels are judged by the training rows."""
    (only,) = made(ROWS, [{"text": "\ufffd film", "label": "bad"}]).warnings
    assert only.startswith("In the evaluation data: the data: 1 of 1 rows look as if")


def test_rows_without_labels_are_not_judged(fitted, caplog):
    """A prediction answers strange texts as it answers others."""
    assert len(fitted.predict(["a\0film", "\ufffd film"])) == 2
    assert not caplog.records
