"""TokenClassification: logits to one answer per word, parts of a row put together again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from petune.tasks.base import IGNORE, Example
from petune.tasks.token_classification import TokenClassification
from tests.tasks.tables import table
from tests.tiny import tag_rows, tokenizer

ROWS = [
    {"tokens": ["the", "walking", "\u200b", "dimitrios", "was", "in", "timbuktu"] * 5, "tags": list("OABCOAB") * 5},
    {"tokens": ["anna"], "tags": ["A"]},
    {"tokens": ["the", "film"] * 12, "tags": list("AC") * 12},
]
TASK = TokenClassification(max_length=12).learn(table(ROWS))


def encoded(rows: list[dict[str, Any]] = ROWS) -> list[Example]:
    """All parts of all rows."""
    return TASK.encode(table(rows), tokenizer(), longest=64, labelled=True).examples


def perfect(examples: list[Example]) -> torch.Tensor:
    """(B, T, C) logits that put the labels of a batch first, and noise where nothing is asked."""
    labels = TASK.collate(examples, tokenizer()).labels
    assert labels is not None
    logits = torch.randn(*labels.shape, len(TASK.labels), generator=torch.Generator().manual_seed(0))
    asked = labels != IGNORE
    logits[asked] = 9.0 * torch.nn.functional.one_hot(labels[asked], len(TASK.labels)).float()
    return logits


def test_split_takes_the_words_out_of_a_padded_batch() -> None:
    """One (words, C) array per example; padding, specials and continuation pieces are gone."""
    examples = encoded()
    arrays = TASK.split(perfect(examples).bfloat16(), examples)
    assert [array.shape for array in arrays] == [(TASK.count(example), 4) for example in examples]
    assert all(array.dtype == np.float32 for array in arrays)


def test_perfect_logits_give_back_every_tag_in_its_row() -> None:
    """Rows in parts are whole again; a word without pieces is answered O."""
    examples = encoded()
    assert len(examples) > len(ROWS)
    answers = TASK.answers(TASK.split(perfect(examples), examples), examples)
    expected = [
        ["O" if word == "\u200b" else tag for word, tag in zip(row["tokens"], row["tags"], strict=True)] for row in ROWS
    ]
    assert answers == expected


def test_references_are_the_tags_as_given() -> None:
    """Words without pieces count as well, so nothing is left out of a score."""
    assert TASK.references(encoded()) == [row["tags"] for row in ROWS]


def test_parts_are_put_together_by_place_not_by_order() -> None:
    """Evaluation may see the parts in any order."""
    examples = encoded(ROWS[:1])
    backwards = examples[::-1]
    logits = TASK.split(perfect(backwards), backwards)
    assert TASK.answers(logits, backwards) == TASK.answers(logits[::-1], examples)


def test_probabilities_are_per_word() -> None:
    """(words, C) per row, each word summing to 1, in the order of the labels."""
    examples = encoded()
    logits = TASK.split(perfect(examples), examples)
    probabilities = TASK.probabilities(logits, examples)
    assert [array.shape for array in probabilities] == [(len(row["tokens"]), 4) for row in ROWS]
    for array, answer in zip(probabilities, TASK.answers(logits, examples), strict=True):
        np.testing.assert_allclose(array.sum(1), 1, rtol=1e-5)
        assert [TASK.labels[i] for i in array.argmax(1)] == answer


def test_a_row_of_only_silent_words_is_answered() -> None:
    """There is nothing to learn from it, and nothing breaks."""
    examples = encoded([{"tokens": ["\u200b", "\u200b"], "tags": ["A", "O"]}])
    logits = TASK.split(perfect(examples), examples)
    assert TASK.count(examples[0]) == 0
    assert TASK.answers(logits, examples) == [["O", "O"]] and TASK.references(examples) == [["A", "O"]]
    assert TASK.probabilities(logits, examples)[0].shape == (2, 4)


def test_without_o_the_first_label_stands_in() -> None:
    """Parts of speech have no O."""
    rows = table([{"tokens": ["the", "\u200b"], "tags": ["NOUN", "VERB"]}])
    task = TokenClassification().learn(rows)
    examples = task.encode(rows, tokenizer(), longest=64, labelled=True).examples
    assert task.answers([np.array([[0.0, 1.0]])], examples) == [["VERB", "NOUN"]]


def test_random_rows_come_back_whole_at_every_limit() -> None:
    """Whatever the limit, each row keeps its number of words and their tags."""
    rows = tag_rows(30)
    for limit in (4, 5, 9, 64):
        task = TokenClassification(max_length=limit).learn(table(rows))
        examples = task.encode(table(rows), tokenizer(), longest=64, labelled=True).examples
        assert task.references(examples) == [row["tags"] for row in rows]
        assert sum(map(task.count, examples)) == sum(len(row["tokens"]) for row in rows)
