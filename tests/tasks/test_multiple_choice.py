"""Multiple choice: columns of options, what says which one is right, and the loss among a row's options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from petune import AdaptedModel, LoRA, TrainConfig, Tuner
from petune.data.sources import read
from petune.errors import ConfigError, DataError
from petune.tasks.multiple_choice import MultipleChoice
from tests import tiny
from tests.kinds import KINDS

ROW = {"question": "it was", "options": ["a film", "a team", "a bank"], "answer": "a team"}


def learnt(rows: list[dict[str, Any]], **knobs: Any) -> MultipleChoice:
    """The task, having learnt from these rows."""
    return MultipleChoice(**knobs).learn(read(rows))


def encoded(rows: list[dict[str, Any]], **knobs: Any) -> list[dict]:
    """The examples of rows."""
    return learnt(rows, **knobs).encode(read(rows), tiny.tokenizer("bert"), longest=64, labelled=True).examples


@pytest.mark.parametrize("answer", ["a team", 1, "1", 1.0, "B", "b", "(b)", " a team "])
def test_the_right_option_is_told_in_many_ways(answer: Any) -> None:
    """Its text, its number from 0, its letter."""
    assert encoded([{**ROW, "answer": answer}])[0]["labels"] == 1


def test_options_may_bring_their_own_labels() -> None:
    """As ARC's do; the row's answer is one of them."""
    row = {"question": "it was", "choices": {"text": ["a film", "a team"], "label": ["1", "2"]}, "answerKey": "2"}
    assert encoded([row])[0]["labels"] == 1


@pytest.mark.parametrize(
    "row",
    [
        {"sent1": "it was", "ending0": "a film", "ending1": "a team", "label": 1},
        {"goal": "it was", "sol1": "a film", "sol2": "a team", "label": 1},
        {"question": "it was", "option_b": "a team", "option_a": "a film", "answer": "B"},
        {"question": "it was", "options": '["a film", "a team"]', "answer": "B"},
        {"question": "it was", "options": "['a film', 'a team']", "answer": "B"},
    ],
)
def test_options_are_found_in_every_form(row: dict[str, Any]) -> None:
    """A column each, as in SWAG and PIQA, in the order of their names; or one that holds lists, written as text too."""
    [example] = encoded([row])
    assert (example["_options"], example["labels"]) == (["a film", "a team"], 1)


def test_a_column_may_be_empty_where_a_row_has_fewer_options() -> None:
    """Such a row has fewer parts."""
    rows = [
        {"question": "it was", "option_a": "a film", "option_b": "a team", "option_c": "a bank", "answer": "C"},
        {"question": "it was", "option_a": "a film", "option_b": "a team", "option_c": None, "answer": "A"},
    ]
    assert [len(example["_parts"]) for example in encoded(rows)] == [3, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "a teem"}, "row 1: 'a teem' is none of the 3 options.*Did you mean 'a team'"),
        ({"answer": "D"}, "row 1: 'D' is none"),
        ({"answer": 3}, "row 1: '3' is none"),
        ({"answer": None}, "row 1: the label is missing"),
        ({"options": ["a film"]}, "row 1: there is only 1 option"),
        ({"options": ["a film", "a film"]}, "row 1: there is an option twice"),
        ({"options": ["a film", " "]}, "row 1: an option is empty"),
        ({"options": ["a film", None]}, "row 1: the option None is a NoneType"),
        ({"options": "a film"}, "row 1: the options in column 'options' are 'a film', a str"),
        ({"question": ""}, "row 1: the text in column 'question' is empty"),
    ],
)
def test_a_bad_row_is_told_with_its_place(change: dict[str, Any], words: str) -> None:
    """What is there, what was expected, and the near name."""
    with pytest.raises(DataError, match=words):
        encoded([ROW, {**ROW, **change}])


def test_columns_that_are_not_there_are_told_with_those_that_are() -> None:
    """The usual names, and what was found."""
    with pytest.raises(
        DataError, match=r"no column with a usual name for options.*'question', 'optoins'.*Did you mean"
    ):
        learnt([{"question": "it was", "optoins": ["a", "b"], "answer": 0}])


def test_a_batch_has_a_row_for_each_option() -> None:
    """Rows of three and of two options: the right one's place comes first, and the loss is that of each row alone."""
    rows = [ROW, {"question": "it was", "options": ["a bank", "a law"], "answer": 0}]
    task, examples = learnt(rows), encoded(rows)
    inputs, labels = task.collate(examples, tiny.tokenizer("bert"))
    assert len(inputs["input_ids"]) == 5
    assert labels.tolist() == [[1, 0, 2], [3, 4, -1]]
    logits = torch.tensor([[1.0], [2.0], [0.0], [0.5], [-0.5]], requires_grad=True)
    first = -math.log(math.exp(2) / (math.e + math.exp(2) + 1))
    second = -math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(-0.5)))
    loss = task.loss(logits, labels)
    loss.backward()
    assert loss.item() == pytest.approx(first + second)
    assert torch.isfinite(logits.grad).all()
    split = task.split(logits, examples)
    assert [row.tolist() for row in split] == [[1.0, 2.0, 0.0], [0.5, -0.5]]
    assert task.answers(split, examples) == task.references(examples) == ["a team", "a bank"]
    assert [round(float(row.sum()), 5) for row in task.probabilities(split, examples)] == [1.0, 1.0]


def test_smoothing_is_towards_the_row_s_own_options() -> None:
    """An untrained guess among k options costs log k, however much it is smoothed; options have no class weights."""
    rows = [ROW, {"question": "it was", "options": ["a bank", "a law"], "answer": 0}]
    task, examples = learnt(rows), encoded(rows)
    labels = task.collate(examples, tiny.tokenizer("bert")).labels
    assert float(task.loss(torch.zeros(5, 1), labels, label_smoothing=0.3)) == pytest.approx(math.log(6))
    with pytest.raises(ConfigError, match="class_weight"):
        task.loss(torch.zeros(5, 1), labels, class_weight=torch.ones(2))


def test_a_mixed_batch_equals_each_adapter_alone(tmp_path: Any) -> None:
    """Choices with any number of options, question answering, similarity and labels in one call of one backbone."""
    made = tiny.backbone("bert")
    quick = TrainConfig(epochs=1, batch_size=8, progress="off")
    kinds = ("choices", "answers", "partners", "single")
    model = AdaptedModel(made, tokenizer=tiny.tokenizer("bert"))
    asked, wanted, names = [], [], []
    for index, kind in enumerate(kinds):
        tuner = Tuner(
            made, task=KINDS[kind].task(), method=LoRA(rank=index + 2), name=kind, tokenizer=tiny.tokenizer("bert")
        ).fit(KINDS[kind].rows(16), config=quick)
        model.add(kind, tuner.save(tmp_path / kind))
        texts = [KINDS[kind].asked(row) for row in KINDS[kind].rows(3)]
        asked += texts
        wanted += tuner.predict(texts)
        names += [kind] * 3
    order = np.random.default_rng(0).permutation(len(asked))
    found = model.predict([asked[i] for i in order], adapters=[names[i] for i in order], batch_size=5)
    for place, row in enumerate(order):
        if isinstance(wanted[row], str):
            assert found[place] == wanted[row]
        else:
            assert np.abs(found[place] - wanted[row]).max() <= 1e-5
