"""Question answering: columns, answers that are and are not in their context, windows, and what becomes of logits."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from petune.data.sources import read
from petune.errors import ConfigError, DataError
from petune.tasks._spans import Answer, ranked, span_scores
from petune.tasks.question_answering import QuestionAnswering
from tests import tiny

CONTEXT = "anna was in oslo and boris was in paris today"
ROW = {"question": "where was anna", "context": CONTEXT, "answers": {"text": ["oslo"], "answer_start": [12]}}


def learnt(rows: list[dict[str, Any]], **knobs: Any) -> QuestionAnswering:
    """The task, having learnt from these rows."""
    return QuestionAnswering(**knobs).learn(read(rows))


def encoded(rows: list[dict[str, Any]], family: str = "bert", labelled: bool = True, **knobs: Any) -> list[dict]:
    """The windows of rows."""
    task = learnt(rows, **knobs)
    return task.encode(read(rows), tiny.tokenizer(family), longest=64, labelled=labelled).examples


def said(example: dict[str, Any]) -> str:
    """The text between an example's labels."""
    start, end = (place - example["_first"] for place in example["labels"])
    return example["_context"][example["_offsets"][start][0] : example["_offsets"][end][1]]


def certain(examples: list[dict], sure: float = 9.0) -> list[np.ndarray]:
    """Logits that say what the labels say; a window that learns "no answer" is less sure of it."""
    made = []
    for example in examples:
        logits = np.zeros((len(example["input_ids"]), 2), dtype=np.float32)
        for side, place in enumerate(example["labels"]):
            logits[place, side] = sure if place else sure / 3
        made.append(logits)
    return made


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["oslo"], "answer_start": [12]},
        {"text": np.array(["oslo"], dtype=object), "answer_start": np.array([12], dtype=np.int32)},
        np.array([{"text": "oslo", "answer_start": np.int64(12)}], dtype=object),
        [{"text": "oslo", "answer_start": 12}],
        "oslo",
        '{"text": ["oslo"], "answer_start": [12]}',
        "{'text': ['oslo'], 'answer_start': [12]}",
    ],
)
@pytest.mark.parametrize("family", ["bert", "qwen2", "roberta"])
def test_an_answer_is_found_in_every_form(answers: Any, family: str) -> None:
    """SQuAD's dict of lists, its nested form, plain text, and what files hold of them mark the same pieces."""
    [example] = encoded([{**ROW, "answers": answers}], family)
    assert said(example).strip() == "oslo"
    assert example["_gold"] == ["oslo"]


def test_a_parquet_file_says_that_there_is_no_answer(tmp_path: Path) -> None:
    """What pandas reads of SQuAD's own columns: arrays inside of dicts, which are empty where nothing answers."""
    frame = pd.DataFrame([ROW, {**ROW, "answers": {"text": [], "answer_start": []}}])
    frame.to_parquet(tmp_path / "squad.parquet")
    data = read(pd.read_parquet(tmp_path / "squad.parquet"))
    task = QuestionAnswering().learn(data)
    made = task.encode(data, tiny.tokenizer("bert"), longest=64, labelled=True).examples
    assert task.no_answer and [example["_gold"] for example in made] == [["oslo"], []]


def test_offsets_may_have_a_column_of_their_own() -> None:
    """With the same text twice, the offset says which one is meant; without it the first is taken, and said."""
    row = {"question": "which was", "context": CONTEXT, "answer": "was", "answer_start": "27"}
    [example] = encoded([row])
    assert example["_offsets"][example["labels"][0] - example["_first"]] == [27, 30]
    bare = [{key: value for key, value in row.items() if key != "answer_start"}]
    made = learnt(bare).encode(read(bare), tiny.tokenizer("bert"), longest=64, labelled=True)
    assert made.notices == ["the data: 1 answers without an offset occur several times; the first was taken."]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answers": {"text": ["oslo"], "answer_start": [11]}}, r"row 1.*'oslo'.*not.*at 11: ' osl' is there.*at 12"),
        ({"answers": {"text": ["oslo"], "answer_start": [-1]}}, r"row 1.*not in its context at -1.*at 12"),
        ({"answers": {"text": ["bergen"], "answer_start": [12]}}, r"row 1.*'bergen' is not in its context at 12"),
        ({"answers": "Oslo"}, r"row 1.*'Oslo' is not in its context"),
        ({"answers": {"text": ["oslo", "paris"], "answer_start": [12]}}, "row 1.*2 answers and 1 offsets"),
        ({"answers": {"text": ["oslo"], "answer_start": [1.5]}}, "row 1.*1.5 is no whole number"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "row 1.*'' is no text"),
        ({"answers": '{"text": ["oslo"'}, "row 1.*cannot be read"),
        ({"answers": 7}, "row 1.*are 7, a int"),
        ({"question": " "}, "row 1.*'question' is empty"),
        ({"context": None}, "row 1.*'context' is missing"),
    ],
)
def test_a_bad_row_is_told_with_its_place(change: dict[str, Any], words: str) -> None:
    """An answer at the wrong offset is told the right one."""
    with pytest.raises(DataError, match=words):
        encoded([ROW, {**ROW, **change}])


def test_columns_that_are_not_there_are_told_with_those_that_are() -> None:
    """The usual names, what was found, and the near name of a wrong one."""
    with pytest.raises(DataError, match=r"usual name for answer.*Usual are answers, answer.*'question', 'context'"):
        learnt([{"question": "who", "context": "anna"}])
    with pytest.raises(DataError, match=r"no column 'contxt'.*Did you mean 'context'"):
        learnt([ROW], context="contxt")


def test_a_long_context_is_read_in_windows() -> None:
    """Windows overlap, every piece of the context is in one, and those without the answer learn "no answer"."""
    row = {**ROW, "question": "it was anna", "context": f"{CONTEXT} and {CONTEXT} and {CONTEXT}"}
    examples = encoded([row], max_length=16, stride=4)
    assert len(examples) > 3
    assert all(len(example["input_ids"]) <= 16 for example in examples)
    covered = {tuple(span) for example in examples for span in example["_offsets"]}
    assert covered == set(map(tuple, encoded([row], max_length=64)[0]["_offsets"]))
    for one, two in itertools.pairwise(examples):
        assert one["_offsets"][-4:] == two["_offsets"][:4] != one["_offsets"][-5:-1]
    assert [said(example) for example in examples if example["labels"] != [0, 0]] == ["oslo"]


def test_a_question_longer_than_the_model_leaves_room_for_its_context() -> None:
    """It is cut to half of the room; nothing of the context is lost."""
    row = {**ROW, "question": " ".join(["where was anna today"] * 8)}
    examples = encoded([row], max_length=20, stride=100)
    assert {len(example["input_ids"]) <= 20 for example in examples} == {True}
    covered = {tuple(span) for example in examples for span in example["_offsets"]}
    assert covered == set(map(tuple, encoded([ROW])[0]["_offsets"]))


def test_windows_are_merged_into_one_answer_per_row() -> None:
    """The best span of all windows is the answer, with its characters; rows keep their order."""
    far = {**ROW, "context": " ".join(["we saw a film today"] * 6) + f" {CONTEXT}"}
    far["answers"] = "oslo"
    rows = [far, {**ROW, "answers": "anna"}]
    task, examples = learnt(rows), encoded(rows, max_length=16, stride=2)
    found = task.answers(certain(examples), examples)
    assert found == ["oslo", "anna"]
    assert all(row["context"][a.start : a.end] == a for row, a in zip(rows, found, strict=True))
    assert task.references(examples) == [["oslo"], ["anna"]]


def test_no_answer_is_learnt_and_has_a_threshold() -> None:
    """Rows without answers make it an answer; the threshold moves it; without such rows there is always a span."""
    rows = [ROW, {**ROW, "answers": {"text": [], "answer_start": []}}]
    task, examples = learnt(rows), encoded(rows)
    assert task.no_answer
    logits = certain(examples)
    assert task.answers(logits, examples) == ["oslo", ""]
    assert task.references(examples) == [["oslo"], [""]]
    assert learnt(rows, no_answer_threshold=20.0).answers(logits, examples)[1] != ""
    assert learnt(rows, no_answer_threshold=-20.0).answers(logits, examples) == ["", ""]
    assert learnt([ROW]).no_answer is False
    assert learnt([ROW]).answers(logits, examples)[1] != ""


def test_probabilities_are_those_of_all_spans() -> None:
    """Over every span and no answer they sum to one; `n_best` of them are given, the likeliest first."""
    rows = [{**ROW, "context": "anna was in oslo", "answers": ""}]
    task, examples = learnt(rows, n_best=100), encoded(rows)
    logits = [np.random.default_rng(0).normal(size=(len(examples[0]["input_ids"]), 2)).astype(np.float32)]
    [found] = task.probabilities(logits, examples)
    assert len(found) == 4 * 5 // 2 + 1
    assert sum(answer.score for answer in found) == pytest.approx(1.0)
    assert [answer.score for answer in found] == sorted((answer.score for answer in found), reverse=True)
    few = learnt(rows, n_best=2).probabilities(logits, examples)[0]
    assert few == found[:2]


def test_spans_are_as_long_as_allowed_and_no_longer() -> None:
    """Every pair of start and end within the limit has the sum of their logits, and no other pair has a score."""
    logits = np.arange(12, dtype=np.float32).reshape(6, 2)
    scores, none = span_scores(logits, first=2, many=4, longest=3)
    assert none == 1.0
    for more in range(3):
        for start in range(4):
            fits = start + more < 4
            assert scores[more, start] == (logits[2 + start, 0] + logits[2 + start + more, 1] if fits else -np.inf)


def test_a_context_that_is_cut_away_has_no_answer() -> None:
    """A window without a single piece of the context still gives an answer of the right kind."""
    window = {"_first": 3, "_offsets": [], "_context": "anna"}
    assert ranked([(np.zeros((3, 2)), window)], 1, longest=3, threshold=None) == [""]


def test_an_answer_survives_copies() -> None:
    """Text, place and score are kept by deepcopy and pickle."""
    answer = Answer("oslo", start=12, end=16, score=0.5)
    for same in (copy.deepcopy(answer), pickle.loads(pickle.dumps(answer))):
        assert (same, same.start, same.end, same.score) == ("oslo", 12, 16, 0.5)


def test_the_loss_is_the_mean_of_both_ends_summed_over_windows() -> None:
    """By hand, with padding that has no chance."""
    task = learnt([ROW])
    logits = torch.zeros(2, 4, 2)
    assert float(task.loss(logits, torch.tensor([[1, 2], [0, 0]]))) == pytest.approx(2 * np.log(4))
    with pytest.raises(ConfigError, match="label_smoothing"):
        task.loss(logits, torch.tensor([[1, 2], [0, 0]]), label_smoothing=0.1)
    with pytest.raises(ConfigError, match="class_weight"):
        task.class_counts([])
