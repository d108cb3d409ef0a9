"""Similarity: what is learnt from which columns, the loss by hand, vectors and rankings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from petune import LoRA, TrainConfig, Tuner
from petune.data.sources import read
from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks._nearness import partner_loss, rankings
from petune.tasks._pooling import pooled
from petune.tasks.similarity import Similarity
from tests import tiny
from tests.kinds import KINDS

PAIR = {"query": "a great film", "answer": "we saw it today"}


def learnt(rows: list[dict[str, Any]], **knobs: Any) -> Similarity:
    """The task, having learnt from these rows."""
    return Similarity(**knobs).learn(read(rows))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"anchor": "a", "positive": "b"}, ("anchor", "positive", None, None)),
        ({"query": "a", "passage": "b", "negative": "c"}, ("query", "passage", "negative", None)),
        ({"sentence1": "a", "sentence2": "b", "score": 0.5}, ("sentence1", "sentence2", None, "score")),
        ({"text": "a", "text_pair": "b", "label": "1"}, ("text", "text_pair", None, "label")),
    ],
)
def test_columns_say_what_is_learnt(row: dict[str, Any], found: tuple[Any, ...]) -> None:
    """Pairs, triplets, or scores."""
    task = learnt([row], score_range=(0, 5))
    assert (task.text, task.text_pair, task.negative, task.score) == found


def test_bad_rows_and_knobs_are_refused() -> None:
    """With the column, the row and what was expected."""
    with pytest.raises(DataError, match=r"usual name for text_pair.*'query', 'other'"):
        learnt([{"query": "a", "other": "b"}])
    with pytest.raises(DataError, match=r"every score in column 'score' is 1.0"):
        learnt([{**PAIR, "score": 1.0}] * 2)
    with pytest.raises(DataError, match="row 1: the label 'good' is no finite number"):
        learnt([{**PAIR, "score": 1.0}, {**PAIR, "score": "good"}])
    with pytest.raises(DataError, match="row 1: the text in column 'answer' is empty"):
        learnt([PAIR]).encode(read([PAIR, {**PAIR, "answer": ""}]), tiny.tokenizer(), longest=64, labelled=True)
    with pytest.raises(ConfigError, match="temperature"):
        Similarity(temperature=0.0)
    with pytest.raises(ConfigError, match="score_range"):
        Similarity(score_range=(1.0, 1.0))
    with pytest.raises(ConfigError, match=r"negative=\.\.\. does not go with score"):
        Similarity(negative="far", score="stars")
    with pytest.raises(DataError, match="row 1: 3 is no text"):
        learnt([PAIR]).table(["a", 3])


def test_the_loss_of_partners_by_hand() -> None:
    """Each text among all partners and negatives; what is its own text or partner once more does not compete."""
    vectors = torch.nn.functional.normalize(torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    every = [vectors[0, 1], vectors[1, 1], vectors[0, 2], vectors[1, 2]]

    def by_hand(row: int, left_out: tuple[int, ...] = ()) -> float:
        scores = {at: float(vectors[row, 0] @ x) / 0.1 for at, x in enumerate(every) if at not in left_out}
        return -math.log(math.exp(scores[row]) / sum(map(math.exp, scores.values())))

    different = torch.tensor([[0, 1, 2], [3, 4, 5]])
    assert float(partner_loss(vectors, different, 0.1)) == pytest.approx(by_hand(0) + by_hand(1), rel=1e-5)
    # The second row's partner is the first one's as well, and its negative is the first row's own text.
    equal = torch.tensor([[0, 1, 2], [3, 1, 0]])
    wanted = by_hand(0, (1, 3)) + by_hand(1, (0,))
    assert float(partner_loss(vectors, equal, 0.1)) == pytest.approx(wanted, rel=1e-5)


def test_scores_become_cosines() -> None:
    """The least and the largest score of the training rows are 0 and 1; the errors are squared and summed."""
    rows = [{**PAIR, "score": 1}, {**PAIR, "score": "5"}]
    task = learnt(rows)
    assert task.score_range == (1.0, 5.0)
    examples = task.encode(read(rows), tiny.tokenizer(), longest=64, labelled=True).examples
    labels = task.collate(examples, tiny.tokenizer()).labels
    alike = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    assert float(task.loss(alike, labels)) == pytest.approx(1.0 + 0.4**2)
    assert task.answers(task.split(alike, examples), examples) == pytest.approx([1.0, 0.6])
    assert task.references(examples) == [1.0, 5.0]


@pytest.mark.parametrize(("how", "wanted"), [("mean", [1.0, 2.0]), ("cls", [0.0, 1.0]), ("last", [2.0, 3.0])])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_passes_over_padding_on_either_side(how: Any, wanted: list[float], side: str) -> None:
    """The mean of the real pieces, the first or the last of them, at length 1."""
    real = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    filler = torch.full((1, 2), 99.0)
    states = torch.cat([filler, real] if side == "left" else [real, filler]).unsqueeze(0)
    mask = torch.tensor([[0, 1, 1] if side == "left" else [1, 1, 0]])
    expected = np.array(wanted) / np.linalg.norm(wanted)
    assert pooled(states, mask, how)[0].tolist() == pytest.approx(expected.tolist())


def test_rankings_hold_each_text_once() -> None:
    """Partners and negatives of all rows, the nearest first."""
    vectors = [np.eye(3, dtype=np.float32)[[0, 1, 2]], np.eye(3, dtype=np.float32)[[1, 1, 0]]]
    assert rankings(vectors, [("a", "b", "c"), ("d", "b", "e")]) == [["e", "b", "c"], ["b", "c", "e"]]


def test_predict_gives_vectors_of_texts_and_cosines_of_pairs(tmp_path: Any) -> None:
    """(D,) float32 of length 1; the saved adapter gives the same bits, and the cosine is that of the vectors."""
    rows = KINDS["partners"].rows(16)
    source = tiny.folder("bert", tmp_path)
    tuner = Tuner(source, task="similarity").fit(rows, config=TrainConfig(epochs=1, progress="off"))
    texts = [rows[0]["text"], rows[0]["text_pair"]]
    one, two = tuner.predict(texts)
    assert one.shape == (32,) and one.dtype == np.float32
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-6)
    [cosine, again] = tuner.predict([tuple(texts), {"text": texts[0], "text_pair": texts[1]}])
    assert cosine == again == pytest.approx(float(one @ two), abs=1e-6)
    loaded = Tuner.load(tuner.save(tmp_path / "adapter"), check=True)
    assert np.array_equal(loaded.predict(texts), tuner.predict(texts))


def test_a_backbone_without_a_pooler_of_its_own_has_no_head_for_it(tmp_path: Any) -> None:
    """A masked language model's checkpoint lacks BERT's pooler; nobody reads it, so nothing of it is saved."""
    source = tiny.mlm_folder("bert", tmp_path)
    tuner = Tuner(source, task="similarity").fit(
        KINDS["partners"].rows(8), config=TrainConfig(epochs=1, progress="off")
    )
    assert tuner.adapter.head() == {}


def test_pairs_that_are_alone_in_their_batch_are_refused() -> None:
    """A loss of 0 would be no error: the knob is told, unless negatives or scores say what is to be learnt."""
    pairs = [{"text": row["text"], "text_pair": row["text_pair"]} for row in KINDS["partners"].rows(2)]

    def fit(rows: list[dict[str, Any]], batch_size: int) -> Any:
        tuner = Tuner(tiny.backbone("bert"), task="similarity", tokenizer=tiny.tokenizer("bert"))
        return tuner.fit(rows, config=TrainConfig(epochs=1, batch_size=batch_size, progress="off"))

    for rows, batch_size in ((pairs, 1), (pairs[:1], 8)):
        with pytest.raises(ConfigError, match=r"loss is always 0.*batch_size"):
            fit(rows, batch_size)
    assert fit([{**row, "negative": "a dull film"} for row in pairs], 1).report.history[0]["loss"] > 0
    assert fit([{**row, "score": score} for score, row in enumerate(pairs)], 1).report.history


def test_an_encoder_decoder_is_refused() -> None:
    """It has two kinds of states; the reason is given."""
    with pytest.raises(BackboneError, match="'t5' has hidden states for what it reads and others for what it writes"):
        Tuner(tiny.backbone("t5"), task="similarity", tokenizer=tiny.tokenizer("t5")).fit(KINDS["partners"].rows(8))


def test_a_cached_trunk_gives_the_same_loss() -> None:
    """Rows with several texts are kept text by text."""
    rows = KINDS["partners"].rows(16)
    losses = []
    for cached in (False, True):
        tuner = Tuner(
            tiny.backbone("bert", dropout=0.0), task="similarity", method=LoRA(top=1), tokenizer=tiny.tokenizer("bert")
        )
        tuner.fit(rows, config=TrainConfig(epochs=2, batch_size=4, cache_trunk=cached, progress="off"))
        losses.append([row["loss"] for row in tuner.report.history if "loss" in row])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
