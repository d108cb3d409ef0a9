"""Speech to letters: the alphabet, the loss over all ways a transcript can lie over the frames, and reading it off."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from petune import CTC, TrainConfig, Tuner
from petune.errors import ConfigError, DataError
from petune.tasks.base import IGNORE, Table
from tests import media, tiny
from tests.kinds import KINDS

SOUNDS = media.sounds(4)


def table(texts: list[Any]) -> Table:
    """Sounds with these transcripts."""
    rows = [{"audio": SOUNDS[number % 4]["audio"], "text": text} for number, text in enumerate(texts)]
    return Table(rows, ("audio", "text"))


def test_letters_are_learnt_and_lowered() -> None:
    """Every character once, in order, the blank between words among them; named ones stay, and case can be kept."""
    rows = table(["Go  on", "no"])
    assert CTC().learn(rows).letters == (" ", "g", "n", "o")
    assert CTC(lowercase=False).learn(rows).letters == (" ", "G", "n", "o")
    assert CTC(letters=tuple("abc gno")).learn(rows).letters == tuple("abc gno")
    assert CTC().learn(rows).model_config() == {"vocab_size": 5, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("classes", "read"),
    [([0, 1, 1, 0, 1, 2], "aab"), ([1, 1, 1], "a"), ([0, 0], ""), ([3, 1, 3, 3, 0, 3, 2], "a b"), ([2, 1, 2], "bab")],
)
def test_equal_letters_in_a_row_are_one(classes: list[int], read: str) -> None:
    """Unless a blank stands between them; words are parted by one blank, and none stands at an end."""
    task = CTC(audio="audio", text="text", letters=("a", "b", " "))
    assert task.answers([np.eye(4)[classes]], [{}]) == [read]


def test_the_loss_sums_over_all_ways() -> None:
    """By counting: the probability of each row of classes that reads as the transcript, added up, as in the paper."""
    task = CTC(audio="audio", text="text", letters=("a", "b"))
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([[1, 2], [1, IGNORE]])
    shares, wanted = logits.softmax(-1), 0.0
    for row, text in enumerate(("ab", "a")):
        ways = [
            way for way in itertools.product(range(3), repeat=4) if task.answers([np.eye(3)[list(way)]], [{}]) == [text]
        ]
        wanted -= math.log(sum(math.prod(float(shares[row, at, one]) for at, one in enumerate(way)) for way in ways))
    assert float(task.loss(logits, labels)) == pytest.approx(wanted, rel=1e-5)
    assert [task.count({"labels": row}) for row in ([1, 2], [1])] == [2, 1]


def test_what_does_not_fit_adds_nothing() -> None:
    """Three letters have no way over two frames; the loss of the row is 0 and its gradient finite."""
    task = CTC(audio="audio", text="text", letters=("a", "b"))
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = task.loss(logits, torch.tensor([[1, 2, 1]]))
    loss.backward()
    assert float(loss.detach()) == 0 and bool(logits.grad.isfinite().all())


def test_bad_transcripts_are_told_with_their_row() -> None:
    """An empty one, one that is no text, and a letter that training never saw."""
    with pytest.raises(DataError, match="row 1"):
        CTC().learn(table(["go", ""]))
    with pytest.raises(DataError, match="row 1"):
        CTC().learn(table(["go", 3.5]))
    learnt = CTC().learn(table(["go", "no"]))
    with pytest.raises(DataError, match="row 1: the transcript has 'x', which training never saw"):
        learnt.encode(table(["go", "ox"]), media.feature_extractor(), longest=512, labelled=True)


@pytest.mark.parametrize(
    "knobs", [{"letters": ("ab",)}, {"letters": ("a", "a")}, {"labels": ("a",)}, {"seconds": 0.01}]
)
def test_knobs_are_checked(knobs: dict[str, Any]) -> None:
    """Letters are single characters, each once; there are no labels."""
    with pytest.raises(ConfigError):
        CTC(**knobs)


def test_tones_are_told_apart() -> None:
    """A tiny backbone learns to write letters of the right tone and no others; error rates and loss say how well."""
    said = {"low": "ab", "high": "cd"}
    rows = [{**row, "text": said[row["label"]]} for row in media.sounds(24)]
    backbone = tiny.backbone("wav2vec2", final_dropout=0.0)
    tuner = Tuner(backbone, task="ctc", method="full", tokenizer=KINDS["ctc"].reads("wav2vec2"))
    knobs = {"batch_size": 8, "learning_rate": 3e-3, "lr_scheduler": "constant", "backbone_dropout": False}
    tuner.fit(rows, config=TrainConfig(epochs=60, progress="off", **knobs))
    figures = tuner.evaluate(rows)
    assert figures["cer"] <= 0.55 and set(figures) == {"wer", "cer", "loss"}
    answers = tuner.predict([row["audio"] for row in rows])
    assert all(answer and set(answer) <= set(row["text"]) for answer, row in zip(answers, rows, strict=True))
