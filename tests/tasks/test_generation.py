"""The knob `generation` is looked at before a fit, and its length is the one that prompts are cut for."""

from __future__ import annotations

from typing import Any

import pytest

from petune import AdaptedModel, CausalLM, TrainConfig, Tuner
from petune.errors import BackboneError, ConfigError
from petune.tasks.dialogue import Dialogue
from petune.tasks.seq2seq_lm import Seq2SeqLM
from petune.tasks.speech_to_text import SpeechToText
from petune.tasks.summarization import Summarization
from tests import kinds, tiny
from tests.language import language_model
from tests.tuners import QUIET, refused

CONFIG = TrainConfig(epochs=1, **QUIET)
LONG = "film " * 100


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Dialogue(generation={"num_beems": 4}), "no option of generate 'num_beems'|Did you mean 'num_beams'"),
        (CausalLM(generation={"num_beams": "four"}), "num_beams='four'|a whole number, 1 or more"),
        (Seq2SeqLM(generation={"num_beams": True}), "num_beams=True|a whole number"),
        (CausalLM(generation={"temperature": float("nan")}), "temperature=nan|a finite number"),
        (CausalLM(generation={"do_sample": "yes"}), "do_sample='yes'|True or False"),
        (CausalLM(generation={"max_length": 20}), "max_length=20|max_new_tokens counts"),
        (Summarization(generation={"max_new_tokens": 5000}), "max_new_tokens=5000|64 or less"),
        (CausalLM(max_new_tokens=5000), "max_new_tokens=5000|64 or less"),
    ],
)
def test_a_slip_is_refused_before_anything_is_read(task, words):
    """Unknown names are told with the near one, wrong types with what is taken, lengths with the positions."""
    refused(ConfigError, words, lambda: task.need_room(64))


def test_what_generate_takes_is_let_through():
    """Numbers, flags, None for what is unset, and what Whisper's transcripts begin with."""
    CausalLM(generation={"num_beams": 2, "do_sample": True, "top_p": 1, "temperature": None}).need_room(64)
    Seq2SeqLM(generation={"max_length": 30, "stop_strings": ["it"]}).need_room(None)
    SpeechToText(generation={"language": "en", "task": "transcribe"}).need_room(448)


def test_a_fit_asks_before_it_starts():
    """The first thing that a fit does is to look at the knob."""
    tuner = Tuner(
        language_model("qwen2"), task=Dialogue(generation={"num_beems": 4}), tokenizer=tiny.tokenizer("qwen2")
    )
    refused(ConfigError, "num_beems", lambda: tuner.fit(kinds.KINDS["dialogue"].rows(4), config=CONFIG))


def _fitted(**knobs: Any) -> Tuner:
    tuner = Tuner(
        language_model("gpt2"), task=CausalLM(**knobs), method="lora", tokenizer=tiny.tokenizer("gpt2"), name="own"
    )
    return tuner.fit(kinds.KINDS["causal"].rows(6), config=CONFIG)


def test_prompts_are_cut_for_the_length_that_is_asked():
    """A length in the knob or in one call leaves its own room, in `Tuner` and in `AdaptedModel`."""
    assert len(_fitted(max_new_tokens=8, generation={"max_new_tokens": 30}).predict(["a film", LONG])) == 2
    tuner = _fitted(max_new_tokens=8)
    assert len(tuner.generate(["a film", LONG], max_new_tokens=20)) == 2
    adapted = AdaptedModel(tuner.backbone.model, tokenizer=tuner.tokenizer)
    adapted.add("own", tuner)
    assert len(adapted.generate(["a film", LONG], "own", max_new_tokens=20)) == 2
    refused(ConfigError, "max_new_tokens=5000", lambda: tuner.generate(["a film"], max_new_tokens=5000))


def test_a_row_that_does_not_fit_is_named():
    """Where all positions are to be written there is no room for a prompt, and the longest row is told."""
    tuner = _fitted(max_new_tokens=8)
    positions = tuner.backbone.positions
    refused(
        BackboneError, "row 1: |do not fit", lambda: tuner.generate(["a", LONG, "a film"], max_new_tokens=positions)
    )
