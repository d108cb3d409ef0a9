"""Sounds to words: how a transcript begins, what is learnt of it, what is refused, and what is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

from petune import AdaptedModel, LoRA, SpeechToText, TrainConfig, Tuner
from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks.base import IGNORE, Table
from petune.tasks.speech_to_text import first_pieces
from tests import media, tiny
from tests.kinds import speech

QUIET = TrainConfig(epochs=2, progress="off", batch_size=8, learning_rate=1e-2)
LEARNT = SpeechToText(audio="audio", text="text", max_new_tokens=8)
FIRST = [201, 202]
"""The pieces with which tiny transcripts begin: start, and no timestamps."""


def encoded(rows: list[dict[str, Any]], task: SpeechToText = LEARNT, labelled: bool = True) -> Any:
    """Rows as examples."""
    table = Table(rows, ("audio", "text"))
    return task.encode(table, speech.reads("whisper"), longest=64, labelled=labelled)


def tuner(model: Any, **knobs: Any) -> Tuner:
    """A tuner for speech."""
    return Tuner(model, **{"task": speech.task(), "tokenizer": speech.reads("whisper"), **knobs})


def test_the_first_pieces_are_given_and_the_rest_is_learnt():
    """What is read is the transcript shifted by one; labels begin behind the pieces that tell Whisper what to do."""
    words = speech.reads("whisper").tokenizer
    example = encoded(speech.rows(1)).examples[0]
    pieces = words("bad film", add_special_tokens=False).input_ids
    assert example["decoder_input_ids"] == [*FIRST, *pieces]
    assert example["labels"] == [IGNORE, *pieces, words.eos_token_id]
    assert LEARNT.count(example) == len(pieces) + 1
    assert LEARNT.prompt_of(example)["decoder_input_ids"] == FIRST
    assert encoded(speech.rows(1), labelled=False).examples[0]["decoder_input_ids"] == FIRST


def test_the_loss_is_transformers_own():
    """On one batch, the sum over pieces is transformers' mean times their number, the first pieces left out."""
    model = WhisperForConditionalGeneration(tiny.config("whisper")).eval()
    task, batch = LEARNT, LEARNT.collate(encoded(speech.rows(3)).examples, speech.reads("whisper"))
    with torch.no_grad():
        output = model(**batch.inputs, labels=batch.labels)
    count = int((batch.labels != IGNORE).sum())
    assert torch.isclose(task.loss(output.logits, batch.labels), output.loss * count, rtol=1e-5)


def test_language_and_task_are_first_pieces():
    """They are words of `generation`, which reach the pieces and not `generate`; the tokenizer stays as it is."""
    vocabulary, merges = tiny._trained_pairs(tuple(tiny.WORDS))
    marks = [
        "<|startoftranscript|>",
        "<|en|>",
        "<|zh|>",
        "<|de|>",
        "<|translate|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ]
    words = WhisperTokenizer(vocab=vocabulary, merges=merges, additional_special_tokens=marks)
    plain = first_pieces(words, {})
    told = first_pieces(words, {"language": "german", "task": "translate"})
    assert words.convert_ids_to_tokens(told) == [marks[0], "<|de|>", "<|translate|>", marks[-1]]
    assert first_pieces(words, {}) == plain
    assert SpeechToText(generation={"language": "de", "num_beams": 2}).options() == {
        "max_new_tokens": 64,
        "num_beams": 2,
    }
    for bad in ({"language": "klingon"}, {"task": "sing"}, {"language": "su"}):
        with pytest.raises(ConfigError, match="cannot begin"):
            first_pieces(speech.reads("whisper").tokenizer, bad)


def test_what_cannot_be_learnt_is_refused():
    """A missing text or sound with its row, a processor of another kind, a length that is none, a task unlearnt."""
    rows = speech.rows(2)
    with pytest.raises(DataError, match=r"row 1.*text.*empty"):
        encoded([rows[0], {**rows[1], "text": " "}])
    with pytest.raises(DataError, match=r"row 1.*missing"):
        encoded([rows[0], {**rows[1], "audio": None}])
    with pytest.raises(BackboneError, match="how a transcript begins"):
        LEARNT.encode(Table(rows, ("audio", "text")), media.feature_extractor("whisper"), longest=64, labelled=True)
    with pytest.raises(ConfigError, match="seconds"):
        SpeechToText(seconds=40.0)
    with pytest.raises(ConfigError, match="not learnt"):
        encoded(rows, SpeechToText())


def test_long_transcripts_are_cut_and_told():
    """Pieces above the limit are left out; one sentence says of how many rows."""
    made = encoded(
        [{**row, "text": "a great film " * 9} for row in speech.rows(2)],
        SpeechToText(audio="audio", text="text", max_length=8),
    )
    assert {len(example["labels"]) for example in made.examples} == {7}
    assert "Transcripts in the data: 2 of 2 rows" in made.notices[-1]


def test_more_pieces_than_there_are_positions_are_refused():
    """What would be written must fit behind the first pieces."""
    made = tuner(tiny.backbone("whisper")).fit(speech.rows(4), config=QUIET)
    with pytest.raises(BackboneError, match="64 positions"):
        made.generate([speech.rows(1)[0]["audio"]], max_new_tokens=63)


def test_an_adapter_is_saved_with_all_that_it_needs(tmp_path):
    """From rows to transcripts: trained, scored by what it writes, saved, and loaded without arguments."""
    backbone = tmp_path / "whisper"
    tiny.backbone("whisper").save_pretrained(backbone)
    speech.reads("whisper").save_pretrained(backbone)
    clips = media.sound_files(tmp_path / "clips", media.sounds(8))
    paths = [str(path) for path in sorted(clips.rglob("*.wav"))]
    rows = [{"path": path, "transcript": "good" if "high" in path else "bad film"} for path in paths]
    config = TrainConfig(epochs=4, progress="off", batch_size=8, learning_rate=1e-2)
    made = Tuner(backbone, task=SpeechToText(max_new_tokens=8)).fit(rows, config=config)
    figures = made.evaluate(rows)
    assert {"wer", "cer", "loss", "token_accuracy"} <= set(figures)
    assert "wer" not in made.evaluate(rows, generate=False)
    said = made.predict(paths)
    made.save(tmp_path / "adapter")
    loaded = Tuner.load(tmp_path / "adapter", check=True)
    assert loaded.predict(paths) == said
    assert all(isinstance(text, str) and text == text.strip() for text in said)
    assert len(loaded.generate(paths[:1], num_beams=2, num_return_sequences=2)[0]) == 2


def test_two_adapters_write_in_one_batch(tmp_path):
    """Each row is written by its own adapter as it would be alone, beside one of another method."""
    backbone = tiny.backbone("whisper")
    made = {
        name: tuner(backbone, method=name, name=name).fit(speech.rows(8), config=QUIET) for name in ("lora", "prefix")
    }
    model = AdaptedModel(tiny.backbone("whisper"), tokenizer=speech.reads("whisper"))
    for name, one in made.items():
        model.add(name, one.save(tmp_path / name))
    things, names = [row["audio"] for row in speech.rows(4)], ["lora", "prefix", "prefix", "lora"]
    alone = {name: one.predict(things) for name, one in made.items()}
    assert model.predict(things, adapters=names) == [alone[name][row] for row, name in enumerate(names)]


def test_a_cached_trunk_changes_no_loss():
    """The encoder's and the decoder's lower states are kept between epochs, known by sound and pieces."""
    losses = []
    for cached in (True, False):
        config = TrainConfig(epochs=3, cache_trunk=cached, progress="off", batch_size=4, learning_rate=1e-2)
        made = tuner(tiny.backbone("whisper"), method=LoRA(rank=4, top=1)).fit(speech.rows(10), config=config)
        losses.append([row["loss"] for row in made.report.history if "loss" in row])
        assert any("was computed once" in notice for notice in made.report.notices) == cached
    assert np.allclose(*losses, atol=1e-5)
