"""Every form of data that the Tuner reads, and every form of answer that it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

import petune
from petune import SequenceClassification, Tuner
from petune.training.report import EvalReport
from tests import tiny
from tests.tuners import CONFIG, ROWS, TEXTS, fresh


def csv(folder: Path) -> Path:
    """A csv file as spreadsheets write it, with a byte order mark."""
    path = folder / "train.csv"
    pd.DataFrame(ROWS).to_csv(path, index=False, encoding="utf-8-sig")
    return path


def jsonl(folder: Path) -> Path:
    """One object per line."""
    path = folder / "train.jsonl"
    pd.DataFrame(ROWS).to_json(path, orient="records", lines=True)
    return path


FORMS = {
    "csv": csv,
    "tsv": lambda folder: pd.DataFrame(ROWS).to_csv(folder / "a.tsv", sep="\t", index=False) or folder / "a.tsv",
    "jsonl": jsonl,
    "parquet": lambda folder: pd.DataFrame(ROWS).to_parquet(folder / "a.parquet") or str(folder / "a.parquet"),
    "frame": lambda folder: pd.DataFrame(ROWS),
    "dataset": lambda folder: datasets.Dataset.from_list(ROWS),
    "parts": lambda folder: datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "validation": datasets.Dataset.from_list(ROWS[:4])}
    ),
    "dicts": lambda folder: list(ROWS),
    "pair": lambda folder: ([row["text"] for row in ROWS], [row["label"] for row in ROWS]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_trains_the_same_adapter(form, tmp_path):
    """Whatever the rows came in, the labels, the columns and the bits of the adapter are the same."""
    reference = fresh().fit(ROWS, config=CONFIG)
    data = FORMS[form](tmp_path)
    tuner = fresh().fit(data, eval_data=data, config=CONFIG)
    assert tuner.classes_ == ("bad", "good")
    assert np.array_equal(tuner.predict_proba(TEXTS), reference.predict_proba(TEXTS))
    one = data["train"] if form == "parts" else data  # several parts are refused, see test_silences
    assert tuner.evaluate(one)["accuracy"] == reference.evaluate(ROWS)["accuracy"]


def test_conll_files_train_a_tagger(tmp_path):
    """A CoNLL file, its BIO scheme, and one tag per word in every form of answer."""
    path = tmp_path / "train.conll"
    lines = ["\n".join(map(" ".join, zip(row["tokens"], row["tags"], strict=True))) for row in tiny.tag_rows(8)]
    path.write_text("\n\n".join(lines) + "\n")
    tuner = fresh(task="token-classification").fit(path, eval_data=0.25, config=CONFIG)
    assert tuner.classes_ == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
    words = [["anna", "saw", "timbuktu"], ["oslo"]]
    answers, shares = tuner.predict(words), tuner.predict_proba(words)
    assert [len(row) for row in answers] == [3, 1]
    assert {tag for row in answers for tag in row} <= set(tuner.classes_)
    assert [share.shape for share in shares] == [(3, 5), (1, 5)]
    assert tuner.predict(["anna saw timbuktu", "oslo"]) == answers
    assert {"f1", "loss"} <= set(tuner.evaluate(path))


def test_single_label_answers():
    """Strings, probabilities in the order of `classes_`, and a report that is a mapping and a table."""
    tuner = fresh().fit(ROWS, config=CONFIG)
    shares = tuner.predict_proba(TEXTS)
    assert shares.shape == (5, 2)
    assert np.allclose(shares.sum(1), 1, atol=1e-6)
    assert tuner.predict(TEXTS) == [tuner.classes_[index] for index in shares.argmax(1)]
    assert tuner.predict(TEXTS, batch_size=2) == tuner.predict(TEXTS)
    assert tuner.predict([]) == []
    assert tuner.predict([{"text": text, "label": "unseen"} for text in TEXTS]) == tuner.predict(TEXTS)
    report = tuner.evaluate(ROWS, metrics=["matthews-correlation"])
    assert isinstance(report, EvalReport)
    assert {"accuracy", "loss", "matthews_correlation"} <= set(report)
    assert all(isinstance(value, float) for value in report.values())
    assert "bad" in str(report)


def test_multi_label_answers():
    """Lists of strings, and probabilities that need not sum to one."""
    tuner = fresh().fit(tiny.multi_rows(8), config=CONFIG)
    shares = tuner.predict_proba(TEXTS)
    wanted = [[name for name, share in zip(tuner.classes_, row, strict=True) if share >= 0.5] for row in shares]
    assert tuner.predict(TEXTS) == wanted
    assert tuner.evaluate(tiny.multi_rows(8)).rows == 8


def test_regression_answers():
    """Floats, no classes, and no probabilities."""
    tuner = fresh(task=SequenceClassification(problem_type="regression")).fit(tiny.score_rows(8), config=CONFIG)
    assert all(type(answer) is float for answer in tuner.predict(TEXTS))
    assert tuner.classes_ == ()
    with pytest.raises(petune.errors.ConfigError, match="no probabilities"):
        tuner.predict_proba(TEXTS)
    assert {"mae", "r2", "loss"} <= set(tuner.evaluate(tiny.score_rows(8)))


def test_labels_of_every_kind_come_back_as_strings(tmp_path):
    """Ints and bools are classes too; their names are strings before and after saving."""
    for number, names in ((int, ("0", "1")), (bool, ("False", "True"))):
        rows = [{"review": row["text"], "stars": number(index % 2)} for index, row in enumerate(ROWS)]
        tuner = fresh(task=SequenceClassification(text="review", label="stars")).fit(rows, config=CONFIG)
        assert tuner.classes_ == names
        loaded = Tuner.load(tuner.save(tmp_path / names[0]), backbone=tiny.backbone("bert"))
        assert loaded.classes_ == names
        assert loaded.predict(TEXTS) == tuner.predict(TEXTS)
        assert set(loaded.evaluate(rows)) == set(tuner.evaluate(rows))


def floated(form: str, folder: Path, labels: list[float]) -> Any:
    """Rows whose label column pandas has made floats, because a cell of it was empty before `dropna`."""
    rows = [{"text": row["text"], "label": labels[index % len(labels)]} for index, row in enumerate(ROWS)]
    frame = pd.DataFrame([*rows, {"text": "x", "label": None}]).dropna()
    assert frame["label"].dtype == float
    if form == "csv":
        frame.to_csv(folder / "a.csv", index=False)
        assert ",4.0\n" in (folder / "a.csv").read_text()
        return folder / "a.csv"
    if form == "jsonl":
        frame.to_json(folder / "a.jsonl", orient="records", lines=True)
        return folder / "a.jsonl"
    return {"frame": frame, "dicts": frame.to_dict("records"), "pair": (frame["text"], frame["label"])}[form]


@pytest.mark.parametrize("form", ["csv", "jsonl", "frame", "dicts", "pair"])
def test_whole_numbers_are_the_same_labels_as_ints(form, tmp_path):
    """A label column that a missing value made floats has the classes of ints, and each form evaluates the others."""
    ints = [{"text": row["text"], "label": 3 + index % 2} for index, row in enumerate(ROWS)]
    reference = fresh().fit(ints, config=CONFIG)
    data = floated(form, tmp_path, [3.0, 4.0])
    tuner = fresh().fit(data, eval_data=ints, config=CONFIG)
    assert tuner.classes_ == reference.classes_ == ("3", "4")
    assert np.array_equal(tuner.predict_proba(TEXTS), reference.predict_proba(TEXTS))
    assert dict(tuner.evaluate(data)) == dict(reference.evaluate(data)) == dict(reference.evaluate(ints))


@pytest.mark.parametrize("form", ["csv", "frame"])
def test_fractions_stay_as_they_are(form, tmp_path):
    """Numbers that are not all whole are regression; as classes that were named, they keep their names."""
    data = floated(form, tmp_path, [3.5, 4.0])
    assert fresh().fit(data, config=CONFIG).classes_ == ()
    named = fresh(task=SequenceClassification(labels=("4.0", "3.5"))).fit(data, config=CONFIG)
    assert named.classes_ == ("4.0", "3.5")
    assert named.evaluate(data).rows == 8


def test_labels_may_be_named_by_numbers():
    """Classes given as ints or whole floats are those of the data."""
    rows = [{"text": row["text"], "label": 3.0 + index % 2} for index, row in enumerate(ROWS)]
    for given in ((4, 3), (4.0, 3.0)):
        task = SequenceClassification(labels=given)  # type: ignore[arg-type]
        assert fresh(task=task).fit(rows, config=CONFIG).classes_ == ("4", "3")
