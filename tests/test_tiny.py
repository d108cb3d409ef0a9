"""The test material itself: tiny backbones, rows and the covering array."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.covering import CASES, METHODS, TASKS, everything, pairs, pairwise
from tests.tiny import (
    FAMILIES,
    LONGEST,
    backbone,
    folder,
    mlm_folder,
    multi_rows,
    rows,
    score_rows,
    tag_rows,
    tokenizer,
)


def test_every_possible_pair_is_covered() -> None:
    """Each pair of method, family and task that can go together is in the covering array, which is far smaller."""
    wanted = set().union(*map(pairs, everything()))
    assert set().union(*map(pairs, pairwise())) == wanted
    assert len(pairwise()) < len(everything()) / 3
    assert {case.method for case in CASES} == set(METHODS)
    assert {case.task for case in CASES} == set(TASKS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_back_backbone_and_tokenizer(family: str, tmp_path: Path) -> None:
    """What `folder` saves, transformers' auto classes read back: same weights, same pieces, ids that fit."""
    path, made = folder(family, tmp_path), backbone(family)
    loaded = AutoModel.from_pretrained(path)
    assert loaded.config.model_type == family
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in made.state_dict().items())
    texts = [row["text"] for row in rows(60, classes=6)]
    pieces = tokenizer(family)(texts)["input_ids"]
    assert AutoTokenizer.from_pretrained(path)(texts)["input_ids"] == pieces
    assert max(map(len, pieces)) <= LONGEST
    assert max(max(row) for row in pieces) < made.config.vocab_size
    assert tokenizer(family).pad_token_id == made.config.pad_token_id


def test_the_same_seed_gives_the_same_weights() -> None:
    """A seed decides the weights and leaves the caller's random state alone."""
    state = torch.random.get_rng_state()
    one, same, other = (backbone("bert", seed).embeddings.word_embeddings.weight for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_masked_language_model_has_no_pooler(tmp_path: Path) -> None:
    """BERT's pooler is a missing key of an MLM checkpoint, so it belongs to the head."""
    _, report = AutoModel.from_pretrained(mlm_folder("bert", tmp_path), output_loading_info=True)
    assert {"pooler.dense.weight", "pooler.dense.bias"} == set(report["missing_keys"])


def test_words_come_in_pieces() -> None:
    """Some words of the rows are split, so continuation pieces are met by every test that tags words."""
    encoded = tokenizer()(["walking", "in", "timbuktu"], is_split_into_words=True)
    assert encoded.word_ids() == [None, 0, 0, 1, *[2] * 8, None]


def test_rows_are_seeded_and_balanced() -> None:
    """The same seed gives the same rows, and the classes come in turn."""
    assert rows(12, 3, seed=5) == rows(12, 3, seed=5) != rows(12, 3, seed=6)
    assert [row["label"] for row in rows(6, 3)] == ["bad", "good", "sport"] * 2
    assert multi_rows(8)[0]["label"] == []
    assert all(isinstance(row["label"], float) for row in score_rows(8))
    assert all(len(row["tokens"]) == len(row["tags"]) for row in tag_rows(20))
