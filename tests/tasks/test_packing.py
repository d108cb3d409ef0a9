"""Packing: blocks without waste in which every piece is foretold once, and texts that do not see each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from petune import CausalLM, TrainConfig, Tuner
from petune.errors import BackboneError, ConfigError
from petune.tasks._packing import STARTS, blocks
from petune.tasks.base import IGNORE
from tests import tiny
from tests.conformance.subjects import method
from tests.language import DECODERS, language_model
from tests.tasks.tables import reread, table

ROWS = [{"text": f"{row['text']} {row['label']}"} for row in tiny.rows(10)]
QUIET = TrainConfig(epochs=1, batch_size=4, progress="off")


@given(st.lists(st.lists(st.integers(4, 99), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(4, 12))
@bounded(max_examples=60, deadline=None)
def test_every_piece_is_in_a_block_and_foretold_once(texts, size):
    """The blocks say the texts again, each begins with the last piece of the one before, and only the last is short."""
    stream = [piece for text in texts for piece in text]
    for apart in (True, False):
        made = blocks(texts, size, apart=apart)
        said = [piece for block in made for piece in block["input_ids"][1:]]
        assert [stream[0], *said] == stream
        assert all(len(block["input_ids"]) == size for block in made[:-1])
        learnt = sum(label != IGNORE for block in made for label in block["labels"][1:])
        assert learnt == len(stream) - (len(texts) if apart else 1)
        for block in made:
            assert block["labels"][0] == IGNORE
            assert [label for label in block["labels"] if label != IGNORE] == [
                piece for piece, label in zip(block["input_ids"], block["labels"], strict=True) if label != IGNORE
            ]


def test_places_start_anew_with_each_text():
    """Also in a block that begins inside a text; a mask instead where texts see each other."""
    first, second = blocks([[1, 2, 3, 4, 5], [6, 7]], 4, apart=True)
    assert (first[STARTS], second[STARTS]) == ([0, 1, 2, 3], [0, 1, 0, 1])
    assert second["input_ids"] == [4, 5, 6, 7]
    mixed = blocks([[1, 2, 3, 4, 5], [6, 7]], 4, apart=False)
    assert [block["attention_mask"] for block in mixed] == [[1] * 4, [1] * 4]


@pytest.mark.parametrize("family", [family for family in DECODERS if family != "opt"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("recipe", ["lora", "prefix"])
def test_packed_texts_have_the_loss_that_they_have_alone(family, attention, recipe):
    """One block holds all texts, another way of attention or a prefix in front or not: none sees another."""
    model = language_model(family, dropout=0.0, max_position_embeddings=512)
    model.set_attn_implementation(attention)
    losses = {}
    for packing in (False, True, "mixed"):
        task = CausalLM(packing=packing, max_length=300)
        tuner = Tuner(model, task=task, method=method(recipe), tokenizer=tiny.tokenizer(family))
        tuner.fit(ROWS[:1], config=TrainConfig(epochs=1, learning_rate=1e-12, progress="off"))
        with torch.no_grad():
            torch.manual_seed(0)
            for parameter in tuner.adapter.body.module().parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
        losses[packing] = tuner.evaluate(ROWS)
    assert losses[True]["loss"] == pytest.approx(losses[False]["loss"], abs=2e-5)
    assert losses[True]["token_accuracy"] == losses[False]["token_accuracy"]
    assert losses["mixed"]["loss"] != pytest.approx(losses[False]["loss"], abs=1e-3)


def test_nothing_pads_and_the_perplexity_is_told():
    """A run of full blocks has hardly any padding; the perplexity is the exponential of the loss and can choose."""
    model = language_model("llama")
    task = CausalLM(packing=True, max_length=24, max_new_tokens=4)
    config = TrainConfig(epochs=3, batch_size=4, progress="off", metric="perplexity", learning_rate=1e-2)
    tuner = Tuner(model, task=task, tokenizer=tiny.tokenizer("llama")).fit(ROWS, ROWS[:4], config=config)
    assert tuner.report.padding_share < 0.15
    assert any("10 texts of" in notice and "packed into" in notice for notice in tuner.report.notices)
    figures = tuner.evaluate(ROWS)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
    evaluations = [row["eval_perplexity"] for row in tuner.report.history if "eval_perplexity" in row]
    assert tuner.report.best["perplexity"] == min(evaluations) < evaluations[0]
    assert tuner.predict([ROWS[0]["text"]]) == tuner.predict([ROWS[0]["text"], ROWS[1]["text"]])[:1]
    assert CausalLM().of_loss(1e4) == {"perplexity": math.inf}


def test_families_that_cannot_keep_texts_apart_say_so():
    """OPT counts its positions by the mask; with texts that see each other it packs as any."""
    model, tokenizer = language_model("opt"), tiny.tokenizer("opt")
    task = CausalLM(packing=True, max_length=24, max_new_tokens=4)
    with pytest.raises(BackboneError, match=r"'opt' is not known to keep the texts.*packing='mixed'"):
        Tuner(model, task=task, tokenizer=tokenizer).fit(ROWS, config=QUIET)
    mixed = CausalLM(packing="mixed", max_length=24, max_new_tokens=4)
    tuner = Tuner(model, task=mixed, tokenizer=tokenizer).fit(ROWS, config=QUIET)
    assert tuner.evaluate(ROWS)["loss"] > 0


def test_prompts_are_not_packed():
    """A block may end anywhere, so not between a question and its answer."""
    rows = [{"prompt": "a", "completion": "b"}]
    with pytest.raises(ConfigError, match="packing=True does not go with prompts"):
        CausalLM(packing=True).learn(table(rows))
    with pytest.raises(ConfigError, match="packing='mixed' does not go with prompts"):
        CausalLM(packing="mixed", prompt="prompt")
    with pytest.raises(ConfigError, match="packing="):
        CausalLM(packing="tight")
    learnt = CausalLM(packing="mixed").learn(table(ROWS))
    assert reread(learnt) == learnt and learnt.text == "text"
