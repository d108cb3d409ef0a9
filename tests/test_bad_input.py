"""What bad input gets: a clear error with what happened, what was expected and the fix, and nothing half-written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from petune import AdaptedModel, Bottleneck, LoRA, SequenceClassification, TokenClassification, TrainConfig, Tuner
from petune.errors import (
    AdapterError,
    BackboneError,
    ConfigError,
    DataError,
    PetuneError,
    RouteError,
    UnknownNameError,
)
from tests import tiny
from tests.tuners import QUIET, ROWS, TOKENIZER, fresh, refused

# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"method": "lroa"}, "no method 'lroa'|'lora'"),
        ({"method": "prefx"}, "'prefix'"),
        ({"task": "sequence-clasification"}, "no task|'sequence-classification'"),
        ({"method": LoRA(targets=("valeu",))}, "no role 'valeu'|'value'"),
        ({"method": LoRA(modules=("querry",))}, "no linear module 'querry'|'query'"),
    ],
)
def test_an_unknown_method_task_or_role_is_answered_with_the_near_name(knobs, words):
    """The tuner is refused at once, before anybody reads data."""
    refused(UnknownNameError, words, lambda: fresh(**knobs))


@pytest.mark.parametrize("knobs", [{"method": 3}, {"task": object()}, {"name": "a/b"}, {"name": ""}, {"name": "\n"}])
def test_things_that_are_no_method_task_or_name(knobs):
    """Other objects are refused, and names that no folder could carry."""
    refused(ConfigError, "", lambda: fresh(**knobs))


def test_an_unknown_knob_is_answered_with_the_near_one():
    """Knobs of methods, tasks and the configuration."""
    refused(ConfigError, "rnak|'rank'", lambda: LoRA(rnak=3))
    refused(ConfigError, "widht|'width'", lambda: Bottleneck(widht=3))
    refused(ConfigError, "epoch'|'epochs'", lambda: TrainConfig(epoch=3))
    refused(ConfigError, "txt|'text'", lambda: SequenceClassification(txt="a"))


def test_an_unknown_argument_is_answered_with_the_near_one(fitted):
    """Of the Tuner and its methods; a knob of the configuration is sent there. Known ones and help stay as they are."""
    refused(ConfigError, "Tuner takes no 'metod'|'method'", lambda: fresh(metod="lora"))
    refused(ConfigError, "fit takes no 'evaldata'|'eval_data'", lambda: fitted.fit(ROWS, evaldata=ROWS))
    refused(ConfigError, r"fit takes no 'epochs'|config=TrainConfig\(epochs=", lambda: fitted.fit(ROWS, epochs=3))
    refused(ConfigError, "load takes no 'chek'|'check'", lambda: Tuner.load("nowhere", chek=True))
    refused(ConfigError, "predict takes no 'rows'|Known: batch_size, texts", lambda: fitted.predict(rows=3))
    assert fitted.predict(texts=["a great film"], batch_size=1) == fitted.predict(["a great film"])
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'texts'"):
        fitted.predict()


@pytest.mark.parametrize("config", [{"epochs": 1}, {}, 3, TrainConfig])
def test_a_configuration_that_is_none(fitted, config):
    """A dict is no TrainConfig, and is told how to become one."""
    for work in (lambda: fitted.fit(ROWS, config=config), lambda: fitted.plan(ROWS, config=config)):
        refused(ConfigError, r"config=|TrainConfig\(", work)
    assert fitted.report.steps == 1


def test_an_unknown_metric(fitted):
    """In fit and in evaluate, with the near name; a fit that is refused so leaves the old adapter."""
    said = fitted.predict_proba(["a great film"])
    config = TrainConfig(epochs=1, metrics=("accurracy",), **QUIET)
    refused(UnknownNameError, "accurracy|'accuracy'", lambda: fitted.fit(ROWS, ROWS, config))
    refused(UnknownNameError, "accurracy|'accuracy'", lambda: fitted.evaluate(ROWS, metrics=("accurracy",)))
    chosen = TrainConfig(epochs=1, metric="f2", **QUIET)
    refused(ConfigError, "f2|f1", lambda: fitted.fit(ROWS, ROWS, chosen))
    assert np.array_equal(fitted.predict_proba(["a great film"]), said)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (SequenceClassification(text="txet"), "no column 'txet'|'text'"),
        (SequenceClassification(label="lable"), "no column 'lable'|'label'"),
        (TokenClassification(tokens="tokns"), "no column 'tokns'"),
    ],
)
def test_an_unknown_column(task, words):
    """The columns that there are, and the near one."""
    refused(DataError, words, lambda: fresh(task=task).fit(ROWS))


def test_an_unknown_adapter(fitted, tmp_path):
    """In use, routes, remove and predict, with the near name; a folder that is none."""
    model = AdaptedModel(fitted.backbone.model, tokenizer=TOKENIZER).add("mood", fitted)
    inputs = TOKENIZER(["a"], return_tensors="pt")
    for work in (
        lambda: model.use("mod"),
        lambda: model.remove("mod"),
        lambda: model(**inputs, route="mod"),
        lambda: model(**inputs, route=["mod"]),
        lambda: model.routed("mod").__enter__(),
        lambda: model.predict(["a"], adapters="mod"),
        lambda: model.predict(["a", "b"], adapters=["mood", "mod"]),
    ):
        refused(RouteError, "'mod'|'mood'", work)
    refused(RouteError, "No adapter was named", lambda: model.predict(["a"]))
    refused(RouteError, "2 adapters|1 texts", lambda: model.predict(["a"], adapters=["mood", "mood"]))
    refused(AdapterError, "'mood' already|replace", lambda: model.add("mood", fitted))
    refused(AdapterError, "nowhere", lambda: model.add("other", tmp_path / "nowhere"))
    assert model.names == ("mood",)


# -- data -----------------------------------------------------------------------------------------------------------

BAD_ROWS: list[tuple[str, Any, str]] = [
    ("no rows", [], "no rows"),
    ("an empty frame", pd.DataFrame({"text": [], "label": []}), "no rows"),
    ("no texts", ([], []), "no rows"),
    ("a single class", [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], "single class|'x'"),
    ("a missing text", [*ROWS, {"text": None, "label": "bad"}], "row 8|missing"),
    ("a NaN text", [*ROWS, {"text": math.nan, "label": "bad"}], "row 8|missing"),
    ("an empty text", [*ROWS, {"text": "  ", "label": "bad"}], "row 8|empty"),
    ("a number as text", [*ROWS, {"text": 3, "label": "bad"}], "row 8|3|int|str"),
    ("a missing label", [*ROWS, {"text": "a", "label": None}], "row 8|label|missing"),
    ("a NaN label", [*ROWS, {"text": "a", "label": math.nan}], "row 8|label|missing"),
    ("counts that differ", (["a", "b", "c"], ["x", "y"]), "3|2"),
    ("a text in place of data", "a great film", "no file|path"),
    ("a number in place of data", 3, "int|cannot be read"),
]


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in BAD_ROWS], ids=[case[0] for case in BAD_ROWS])
def test_rows_that_cannot_be_used(fitted, data, words):
    """Each names its row; the fit that is refused leaves the old adapter and its answers."""
    said = fitted.predict_proba(["a great film"])
    refused(DataError, words, lambda: fitted.fit(data))
    refused(DataError, words, lambda: fresh().fit(data))
    assert np.array_equal(fitted.predict_proba(["a great film"]), said)
    assert fitted.report.steps == 1


BAD_FILES: list[tuple[str, str, bytes, str]] = [
    ("broken quotes", "a.csv", b'text,label\nfine,x\n"never closed,y\n', "a.csv, |line 3|quote"),
    ("text after a quote", "a.csv", b'text,label\n"a"b,x\n', "line 2|quote"),
    ("too many fields", "a.csv", b"text,label\na,b,x\n", "line 2|more fields"),
    ("Latin-1", "a.csv", "text,label\ncafé,x\n".encode("latin-1"), "UTF-8|line 2|0xe9"),
    ("UTF-16", "a.csv", "text,label\n".encode("utf-16"), "UTF-16|UTF-8"),
    ("an empty file", "a.csv", b"", "a.csv is empty"),
    ("a header alone", "a.csv", b"text,label\n", "no rows"),
    ("a broken jsonl line", "a.jsonl", b'{"text": "a", "label": "x"}\n{"text": \n', "a.jsonl, line 2|JSON"),
    ("a line that is no object", "a.jsonl", b'{"text": "a", "label": "x"}\n[1]\n', "line 2"),
    ("an unknown ending", "a.xlsx", b"x", "'.xlsx'|.csv"),
]


@pytest.mark.parametrize(
    ("name", "content", "words"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES]
)
def test_files_that_cannot_be_read(tmp_path, name, content, words):
    """The file and the line are named."""
    path = tmp_path / name
    path.write_bytes(content)
    refused(DataError, words, lambda: fresh().fit(path))
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_file_that_is_not_there(tmp_path):
    """The near file of the folder is suggested."""
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,y\n")
    refused(DataError, "no file|trian.csv|'train.csv'", lambda: fresh().fit(tmp_path / "trian.csv"))


def test_a_byte_order_mark_is_simply_accepted(tmp_path):
    """A csv file as spreadsheets write it."""
    path = tmp_path / "bom.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\n" + b"".join(f"{r['text']},{r['label']}\n".encode() for r in ROWS))
    assert fresh().fit(path, config=TrainConfig(epochs=1, **QUIET)).classes_ == ("bad", "good")


def test_a_label_that_training_never_saw(fitted):
    """In evaluation data of fit and in evaluate, with its row and the near label."""
    odd = [*ROWS, {"text": "a", "label": "godo"}]
    refused(DataError, "row 8|'godo'|never seen|'good'", lambda: fitted.evaluate(odd))
    refused(DataError, "row 8|'godo'|never seen|'good'", lambda: fresh().fit(ROWS, odd))
    refused(DataError, "no rows", lambda: fitted.evaluate([]))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 8|2 words and 1 tags"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "row 8|word 1|3"),
        ({"tokens": [], "tags": []}, "row 8|no words"),
        ({"tokens": None, "tags": ["O"]}, "row 8|missing"),
    ],
)
def test_token_rows_that_cannot_be_used(row, words):
    """Counts that differ and words that are none, with the row."""
    refused(DataError, words, lambda: fresh(task="token-classification").fit([*tiny.tag_rows(8), row]))


def test_a_conll_file_with_columns_that_differ(tmp_path):
    """The line is named."""
    path = tmp_path / "a.conll"
    path.write_text("Anna B-PER\nsleeps\n\n")
    refused(DataError, "line 2", lambda: fresh(task="token-classification").fit(path))


@pytest.mark.parametrize(
    ("texts", "words"),
    [("one string", "single|list|str"), ([None], "missing"), ([3], "3|int"), (["fine", " "], "row 1|empty")],
)
def test_texts_that_cannot_be_predicted(fitted, texts, words):
    """A single string is no list, and each bad item is named with its row."""
    refused(DataError, words.split("|")[0], lambda: fitted.predict(texts))
    refused(DataError, words.split("|")[0], lambda: fitted.predict_proba(texts))
    model = AdaptedModel(fitted.backbone.model, tokenizer=TOKENIZER).add("mood", fitted).use("mood")
    refused(DataError, "", lambda: model.predict(texts))


def test_a_bad_text_is_named_by_its_own_row_in_a_mixed_call(fitted):
    """`AdaptedModel.predict` counts rows as the caller does, whatever adapter serves them."""
    model = AdaptedModel(fitted.backbone.model, tokenizer=TOKENIZER).add("a", fitted).add("b", fitted)
    work = lambda: model.predict(["x", "y", "z", ""], adapters=["a", "a", "b", "b"])  # noqa: E731
    refused(DataError, "row 3|empty", work)


# -- tokenizer, length, fractions -------------------------------------------------------------------------------------


def test_a_tokenizer_without_a_pad_token():
    """The way to give it one is said, before training and before prediction."""
    tokenizer = tiny.tokenizer("gpt2")
    tokenizer.pad_token = None
    backbone = tiny.backbone("gpt2")
    refused(BackboneError, "no pad token|eos_token", lambda: Tuner(backbone, tokenizer=tokenizer).fit(ROWS))


def test_a_length_above_the_backbones_positions(fitted):
    """A limit above the positions is refused; longer texts are cut, and it is said."""
    task = SequenceClassification(max_length=500)
    refused(ConfigError, "500|68|positions|max_length", lambda: fresh(task=task).fit(ROWS))
    long = [*ROWS, {"text": "film " * 200, "label": "bad"}]
    tuner = fresh().fit(long, config=TrainConfig(epochs=1, **QUIET))
    assert any("1 of 9 rows were longer than 68 pieces" in notice for notice in tuner.report.notices)
    assert len(fitted.predict(["film " * 200])) == 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2, 0.01])
def test_a_fraction_that_cannot_be_held_out(fraction):
    """Out of range, or so small that no row is held out."""
    refused(PetuneError, "", lambda: fresh().fit(ROWS, fraction, TrainConfig(epochs=1, **QUIET)))
