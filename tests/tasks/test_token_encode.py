"""TokenClassification.encode: alignment of words and pieces, long rows in parts, and every kind of tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks.base import IGNORE
from petune.tasks.token_classification import TokenClassification
from tests.tasks.tables import table
from tests.tiny import tokenizer

LEARNT = TokenClassification().learn(table([{"tokens": ["anna", "in", "oslo"], "tags": ["B-PER", "O", "B-LOC"]}]))
LOC, PER, OUT = range(3)
ZERO_WIDTH = "\u200b"


def encode(
    rows: list[dict[str, Any]], *, longest: int = 64, labelled: bool = True, using: Any = None, **knobs: Any
) -> Any:
    """The encoded rows of a file."""
    task = TokenClassification(tokens="tokens", tags="tags", scheme="BIO", labels=LEARNT.labels, **knobs)
    return task.encode(table(rows, "tokens", "tags"), using or tokenizer(), longest=longest, labelled=labelled)


def test_the_first_piece_speaks_for_a_word() -> None:
    """Continuation pieces and specials are ignored; the words are counted, not the pieces."""
    example = encode([{"tokens": ["the", "walking", "dimitrios"], "tags": ["O", "B-LOC", "B-PER"]}]).examples[0]
    pieces = tokenizer().convert_ids_to_tokens(example["input_ids"])
    spoken = {piece: label for piece, label in zip(pieces, example["labels"], strict=True) if label != IGNORE}
    assert spoken == {"the": OUT, "walk": LOC, "d": PER}
    assert example["labels"][0] == example["labels"][-1] == IGNORE and len(pieces) > 5
    assert LEARNT.count(example) == 3
    assert LEARNT.class_counts([example, example]).tolist() == [2, 2, 2]


def test_unlabelled_rows_still_mark_the_first_pieces() -> None:
    """The mark is class 0; there are no references."""
    example = encode([{"tokens": ["walking", "slowly"]}], labelled=False).examples[0]
    assert example["labels"] == [IGNORE, 0, IGNORE, 0, IGNORE, IGNORE] and "tags" not in example


def test_inputs_of_the_tokenizer_are_all_kept() -> None:
    """`token_type_ids` among them, and nothing of the bookkeeping."""
    examples = encode(
        [{"tokens": ["anna"], "tags": ["B-PER"]}, {"tokens": ["the", "film"], "tags": ["O", "O"]}]
    ).examples
    batch = LEARNT.collate(examples, tokenizer())
    assert set(batch.inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    assert batch.labels is not None and batch.labels.tolist() == [
        [IGNORE, PER, IGNORE, IGNORE],
        [IGNORE, OUT, OUT, IGNORE],
    ]


def test_batches_are_padded_on_the_right_whatever_the_tokenizer_says() -> None:
    """The positions of the words count from the left."""
    left = tokenizer()
    left.padding_side = "left"
    examples = encode(
        [{"tokens": ["anna"], "tags": ["B-PER"]}, {"tokens": ["the", "film"], "tags": ["O", "O"]}]
    ).examples
    assert LEARNT.collate(examples, left).inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("silent", [ZERO_WIDTH, "", " ", "\x00"])
def test_a_word_without_pieces_is_kept_but_not_supervised(silent: str) -> None:
    """Its true tag still counts in the references."""
    example = encode([{"tokens": ["anna", silent, "oslo"], "tags": ["B-PER", "B-LOC", "B-LOC"]}]).examples[0]
    assert (example["words"], example["size"], example["tags"]) == ([0, 2], 3, [PER, LOC, LOC])


def test_long_rows_are_split_between_words() -> None:
    """Every word is in exactly one part, in order, with its own tag, and no part is too long."""
    words = ["the", "walking", "film", "dimitrios", "was", ZERO_WIDTH, "old"] * 6
    tags = (["O", "B-LOC", "O", "B-PER", "O", "O", "O"] * 6)[: len(words)]
    rows = [{"tokens": ["anna"], "tags": ["B-PER"]}, {"tokens": words, "tags": tags}]
    examples, notices = encode(rows, max_length=16)
    parts = [example for example in examples if example["row"] == 1]
    assert len(parts) > 2 and all(len(example["input_ids"]) <= 16 for example in parts)
    assert [part["start"] for part in parts] == [sum(p["size"] for p in parts[:i]) for i in range(len(parts))]
    assert [LEARNT.labels[tag] for part in parts for tag in part["tags"]] == tags
    assert all(part["input_ids"][0] == tokenizer().cls_token_id for part in parts)
    whole = encode(rows[1:], max_length=None, longest=1000).examples[0]
    assert sum(map(LEARNT.count, parts)) == LEARNT.count(whole) == 36
    assert notices == [
        f"train.csv: 1 of 2 rows were longer than 16 pieces and were split into {len(parts)} examples"
        f" (longest {len(whole['input_ids'])}); no word is lost.",
        "train.csv: 6 words have no piece, so nothing is learnt of them (first: train.csv, line 3, word 5).",
    ]


def test_a_single_word_that_is_too_long_keeps_its_first_piece() -> None:
    """Only its end is cut, and that is said."""
    examples, notices = encode([{"tokens": ["anna", "x" * 30, "oslo"], "tags": ["B-PER", "O", "B-LOC"]}], max_length=8)
    assert [tag for example in examples for tag in example["tags"]] == [PER, OUT, LOC]
    assert all(len(example["input_ids"]) <= 8 for example in examples)
    assert sum(map(LEARNT.count, examples)) == 3
    assert "1 words alone were longer than 8 pieces" in notices[1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 2, column 'tags': there are 2 words and 1 tags"),
        (
            {"tokens": ["a"], "tags": ["B-PRE"]},
            "line 2, column 'tags': the tag 'B-PRE' was never seen.*Did you mean 'B-PER'",
        ),
        ({"tokens": [], "tags": []}, "line 2: there are no words"),
        (
            {"tokens": ["a", "\ud800"], "tags": ["O", "O"]},
            "line 2: word 1 in column 'tokens' holds .* a lone surrogate",
        ),
    ],
)
def test_bad_rows_are_named_by_their_place(row: dict[str, Any], words: str) -> None:
    """Evaluation data are read as strictly as training data."""
    with pytest.raises(DataError, match=words):
        encode([row])


def test_no_rows_are_an_error_only_where_tags_are_needed() -> None:
    """predict([]) is an empty answer."""
    with pytest.raises(DataError, match="no rows"):
        encode([])
    assert encode([], labelled=False).examples == [] == LEARNT.answers([], [])


def test_a_slow_tokenizer_is_refused() -> None:
    """It cannot tell which piece came from which word."""

    class Slow:
        is_fast = False

    with pytest.raises(BackboneError, match=r"Slow is a slow one.*AutoTokenizer"):
        encode([{"tokens": ["a"], "tags": ["O"]}], using=Slow())


def test_a_tokenizer_without_pad_token_is_refused() -> None:
    """With the way out."""
    bare = tokenizer()
    bare.pad_token = None
    with pytest.raises(BackboneError, match="no pad token"):
        encode([{"tokens": ["a"], "tags": ["O"]}], using=bare)


def test_a_limit_above_the_backbones_positions_and_an_unlearnt_task_are_refused() -> None:
    """Both before anything is tokenized."""
    with pytest.raises(ConfigError, match="max_length=65 is above"):
        encode([{"tokens": ["a"], "tags": ["O"]}], max_length=65)
    with pytest.raises(ConfigError, match="learn"):
        TokenClassification().encode(table([{"tokens": ["a"]}]), tokenizer(), longest=64, labelled=False)


def byte_level(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which a word after a space has pieces of its own."""
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator([" anna saw the film"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="<pad>")


SPLIT = pre_tokenizers.Split(Regex(r" ?\p{L}+|\s+"), "isolated")


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Sequence([SPLIT, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
    ],
    ids=["prefix-space", "gpt2", "llama3"],
)
def test_byte_level_words_get_the_pieces_of_running_text(pre_tokenizer: Any) -> None:
    """Ready-made words are seen as in a sentence, although the tokenizer class drops `add_prefix_space`."""
    using = byte_level(pre_tokenizer)
    example = encode([{"tokens": ["anna", "saw", "the"], "tags": ["B-PER", "O", "O"]}], using=using).examples[0]
    assert example["input_ids"] == using(" anna saw the")["input_ids"]
    assert example["words"] == [0, 1, 2] and example["labels"].count(IGNORE) == len(example["labels"]) - 3


def test_prediction_takes_word_lists_strings_and_dicts() -> None:
    """Each form becomes rows with the column of training; a single string is refused."""
    made = LEARNT.table([["anna", "saw"], "the film", {"tokens": ["oslo"]}])
    examples = LEARNT.encode(made, tokenizer(), longest=64, labelled=False).examples
    assert [example["size"] for example in examples] == [2, 2, 1]
    with pytest.raises(DataError, match="A single str was given"):
        LEARNT.table("anna saw")


def test_the_loss_is_cross_entropy_summed_over_words() -> None:
    """Divided by the words it is torch's own mean; ignored pieces weigh nothing."""
    examples = encode(
        [{"tokens": ["anna", "walking"], "tags": ["B-PER", "O"]}, {"tokens": ["oslo"], "tags": ["B-LOC"]}]
    )
    labels = LEARNT.collate(examples.examples, tokenizer()).labels
    assert labels is not None
    logits = torch.randn(*labels.shape, 3)
    mean = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)
    torch.testing.assert_close(LEARNT.loss(logits, labels, label_smoothing=0.1) / 3, mean)
    weight = torch.tensor([1.0, 2.0, 3.0])
    rows = torch.nn.functional.cross_entropy(logits[labels != IGNORE], labels[labels != IGNORE], reduction="none")
    expected = (rows * weight[labels[labels != IGNORE]]).sum()
    torch.testing.assert_close(LEARNT.loss(logits, labels, class_weight=weight), expected)
    assert LEARNT.loss(logits, torch.full_like(labels, IGNORE)) == 0
