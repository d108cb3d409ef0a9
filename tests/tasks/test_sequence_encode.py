"""SequenceClassification.encode and collate: every bad row is named, nothing that the tokenizer gives is lost."""

from __future__ import annotations

from typing import Any

import pandas
import pytest
import torch

from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks.sequence_classification import SequenceClassification
from tests import tiny
from tests.tasks.tables import labelled, table
from tests.tiny import tokenizer

TASK = SequenceClassification().learn(labelled("bad", "good"))
PAIRS = SequenceClassification(text="a", text_pair="b").learn(
    table([{"a": "the film", "b": "it was", "label": "x"}, {"a": "we saw", "b": "that", "label": "y"}])
)


def encode(
    rows: list[dict[str, Any]], task: SequenceClassification = TASK, longest: int = 64, labelled: bool = True
) -> Any:
    """The encoded rows of a csv file."""
    return task.encode(table(rows, "text", "label"), tokenizer(), longest=longest, labelled=labelled)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is missing"),
        (float("nan"), "is missing"),
        (pandas.NA, "is missing"),
        (pandas.NaT, "is missing"),
        (5, "is 5, a int"),
        (b"bytes", "is b'bytes', a bytes"),
        ("so \ud83d", r"holds '\\ud83d' at position 3, a lone surrogate"),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_a_bad_text_is_named_with_its_row(text: object, words: str, labelled: bool) -> None:
    """In training and in prediction alike."""
    rows = [{"text": "fine", "label": "bad"}, {"text": text, "label": "good"}]
    with pytest.raises(DataError, match=rf"train.csv, line 3: the text in column 'text' {words}"):
        encode(rows, labelled=labelled)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_is_refused_where_it_is_asked_about(text: object) -> None:
    """A prediction needs a text; among labelled rows an empty one is only odd, but not all of them may be."""
    rows = [{"text": "fine", "label": "bad"}, {"text": text, "label": "good"}]
    with pytest.raises(DataError, match=r"train\.csv, line 3: the text in column 'text' is empty"):
        encode(rows, labelled=False)
    assert len(encode(rows).examples) == 2
    with pytest.raises(DataError, match=r"train\.csv: every text in column 'text' is empty"):
        encode(rows[1:])


def test_a_row_of_no_pieces_at_all_is_refused() -> None:
    """A tokenizer that adds no special pieces makes nothing of an empty text."""
    rows = [{"text": "fine", "label": "bad"}, {"text": "", "label": "good"}]
    learnt = SequenceClassification().learn(table(rows, "text", "label"))
    with pytest.raises(DataError, match="line 3: the text is empty for the tokenizer"):
        learnt.encode(table(rows, "text", "label"), tiny.tokenizer("qwen2"), longest=64, labelled=True)


def test_a_row_without_the_key_lacks_its_text() -> None:
    """Rows of dicts need not all have all keys, but the text must be there."""
    with pytest.raises(DataError, match="line 2: the text in column 'text' is missing"):
        encode([{"label": "bad"}])


def test_a_table_without_the_column_is_refused() -> None:
    """The near column is suggested."""
    with pytest.raises(DataError, match=r"no column 'text'\. .*Did you mean 'texts'"):
        TASK.encode(table([{"texts": "x", "label": "bad"}]), tokenizer(), longest=64, labelled=True)


def test_a_label_that_training_never_saw_is_named_with_its_row() -> None:
    """The near label is suggested."""
    with pytest.raises(
        DataError, match=r"line 2, column 'label': the label 'goood' was never seen in training.*Did you mean 'good'"
    ):
        encode([{"text": "fine", "label": "goood"}])


def test_a_missing_label_is_named_with_its_row() -> None:
    """Evaluation data are read as strictly as training data."""
    with pytest.raises(DataError, match="line 2, column 'label': the label is missing"):
        encode([{"text": "fine", "label": None}])


def test_no_rows_are_an_error_only_where_labels_are_needed() -> None:
    """predict([]) is an empty answer; evaluating nothing is a mistake."""
    with pytest.raises(DataError, match="no rows"):
        encode([])
    assert encode([], labelled=False).examples == []
    assert TASK.answers([], []) == [] and TASK.probabilities([], []).shape == (0, 2)


def test_an_unlearnt_task_cannot_encode() -> None:
    """The error says what to call."""
    with pytest.raises(ConfigError, match="learn"):
        encode([{"text": "x", "label": "bad"}], task=SequenceClassification())


def test_a_tokenizer_without_pad_token_is_refused_with_the_way_out() -> None:
    """GPT-2's and Llama's tokenizers come like this."""
    bare = tokenizer()
    bare.pad_token = None
    with pytest.raises(BackboneError, match=r"no pad token.*tokenizer.pad_token = tokenizer.eos_token"):
        TASK.encode(labelled("bad"), bare, longest=64, labelled=True)


def test_a_limit_above_the_backbones_positions_is_refused() -> None:
    """Such rows would fail deep inside the embedding."""
    task = SequenceClassification(max_length=65).learn(labelled("bad", "good"))
    with pytest.raises(ConfigError, match="max_length=65 is above the backbone's 64 positions"):
        encode([{"text": "x", "label": "bad"}], task=task, longest=64)


def test_long_rows_are_cut_and_counted() -> None:
    """The notice has the number, the limit and the longest; the closing special token stays."""
    task = SequenceClassification(max_length=8).learn(labelled("bad", "good"))
    rows = [{"text": "the film it was", "label": "bad"}, {"text": "the " * 30, "label": "good"}]
    examples, notices = encode(rows, task=task)
    assert [len(example["input_ids"]) for example in examples] == [6, 8]
    assert examples[1]["input_ids"][-1] == tokenizer().sep_token_id
    assert notices == ["train.csv: 1 of 2 rows were longer than 8 pieces and were cut (longest 32)."]


def test_rows_that_fit_give_no_notice() -> None:
    """Silence means that nothing was cut."""
    assert encode([{"text": "the film", "label": "bad"}]).notices == []


def test_the_backbones_limit_is_the_default() -> None:
    """At most 512, even where the backbone would take more."""
    rows = [{"text": "the " * 600, "label": "bad"}]
    assert len(encode(rows, longest=40).examples[0]["input_ids"]) == 40
    assert len(encode(rows, longest=10**9).examples[0]["input_ids"]) == 512


def test_pairs_of_texts_keep_their_token_types() -> None:
    """The second text is told from the first by `token_type_ids`, through encode and collate."""
    rows = table([{"a": "the film", "b": "it was", "label": "x"}, {"a": "we", "b": "that", "label": "y"}])
    examples = PAIRS.encode(rows, tokenizer(), longest=64, labelled=True).examples
    assert examples[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    batch = PAIRS.collate(examples, tokenizer())
    assert set(batch.inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    assert batch.inputs["token_type_ids"][0].tolist() == examples[0]["token_type_ids"]


def test_long_pairs_are_cut_from_the_longer_text() -> None:
    """Both texts stay in the row."""
    task = SequenceClassification(text="a", text_pair="b", max_length=10)
    rows = table([{"a": "the " * 30, "b": "film", "label": label} for label in "xy"])
    examples = task.learn(rows).encode(rows, tokenizer(), longest=64, labelled=True).examples
    assert len(examples[0]["input_ids"]) == 10 and 1 in examples[0]["token_type_ids"]


def test_prediction_takes_texts_pairs_and_dicts() -> None:
    """Each form becomes rows with the columns of training."""
    assert TASK.table(["a", {"text": "b"}]).rows == [{"text": "a"}, {"text": "b"}]
    assert PAIRS.table([("a", "b")]).rows == [{"a": "a", "b": "b"}]
    assert TASK.table(pandas.Series(["a"])).rows == [{"text": "a"}]


def test_prediction_refuses_a_single_text_and_a_broken_pair() -> None:
    """A string is a sequence of letters, which nobody means."""
    with pytest.raises(DataError, match=r"A single str was given.*Pass \[text\]"):
        TASK.table("a text")
    with pytest.raises(DataError, match="row 1: 'alone' is no pair of texts"):
        PAIRS.table([("a", "b"), "alone"])


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_padded_on_the_tokenizers_side(side: str) -> None:
    """Padding is masked, and filled with the pad token."""
    padder = tokenizer()
    padder.padding_side = side
    examples = encode([{"text": "the film was", "label": "good"}, {"text": "we", "label": "bad"}]).examples
    inputs, labels = TASK.collate(examples, padder)
    short = inputs["attention_mask"][1].tolist()
    assert short == ([1, 1, 1, 0, 0] if side == "right" else [0, 0, 1, 1, 1])
    assert all(inputs["input_ids"][1][torch.tensor(short) == 0] == padder.pad_token_id)
    assert labels is not None and labels.tolist() == [1, 0] and labels.dtype == torch.int64


def test_unlabelled_rows_make_a_batch_without_labels() -> None:
    """Nothing is made up where nothing is known."""
    examples = encode([{"text": "we"}], labelled=False).examples
    assert "labels" not in examples[0] and TASK.collate(examples, tokenizer()).labels is None


def test_rows_know_their_index() -> None:
    """Order is not trusted: each example carries its row."""
    rows = [{"text": "we", "label": "bad"}] * 3
    assert [example["row"] for example in encode(rows).examples] == [0, 1, 2]
