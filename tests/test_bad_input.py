"""What bad input gets: a clear error with what happened, what was expected and the fix, and nothing half-written."""

from __future__ import annotations

import math

import numpy as np
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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([*ROWS, {"text": None, "label": "bad"}], "row 8|missing"),
        ([*ROWS, {"text": "a", "label": math.nan}], "row 8|label|missing"),
        (([], []), "no rows"),
    ],
)
def test_a_fit_that_is_refused_leaves_the_old_adapter(fitted, data, words):
    """Its answers and its report are what they were; tests/faults/test_bad_data.py has every kind of bad data."""
    said = fitted.predict_proba(["a great film"])
    refused(DataError, words, lambda: fitted.fit(data))
    assert np.array_equal(fitted.predict_proba(["a great film"]), said)
    assert fitted.report.steps == 1


def test_a_file_that_is_refused_leaves_nothing_behind(tmp_path):
    """Nothing is written beside it."""
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,label\nfine,x\n"never closed,y\n')
    refused(DataError, "a.csv, |line 3|quote", lambda: fresh().fit(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


def test_a_label_that_training_never_saw(fitted):
    """In evaluate, with its row and the near label."""
    odd = [*ROWS, {"text": "a", "label": "godo"}]
    refused(DataError, "row 8|'godo'|never seen|'good'", lambda: fitted.evaluate(odd))
    refused(DataError, "no rows", lambda: fitted.evaluate([]))


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
