"""What routed generation refuses: adapters, routes, options and batches that cannot be meant."""

from __future__ import annotations

import pytest

from petune.errors import AdapterError, BackboneError, ConfigError, DataError, RouteError, UnknownNameError
from petune.model.backbone import Backbone
from petune.model.generating import generate
from petune.model.shell import Shell
from tests import tiny
from tests.conformance.subjects import add, method
from tests.language import DECODERS, PAIRED, bank, language_model, padded, prompts
from tests.model.test_generating import LENGTHS, ROUTE, write


def test_adapters_that_write_nothing_are_refused():
    """A classifier in the route is named, as are two kinds of models in one batch and unknown adapters."""
    model = language_model("gpt2")
    made, inputs = bank(model, names=("lora",)), padded(model, prompts(LENGTHS))
    add(made, "stars", method("lora"), "single")
    with pytest.raises(AdapterError, match="'stars' was trained for sequence-classification: it writes no texts"):
        write(made, ["lora", "stars", None, None], inputs)
    with pytest.raises(RouteError, match="Did you mean 'lora'"):
        write(made, ["lroa", None, None, None], inputs)


@pytest.mark.parametrize("route", [["lora"], ["lora"] * 9])
def test_a_route_of_another_length_is_refused(route):
    """One entry for each row, before anything is computed; also no route per token."""
    model = language_model("gpt2")
    made, inputs = bank(model, names=("lora",)), padded(model, prompts(LENGTHS))
    with pytest.raises(RouteError, match=r"names \d rows, the batch has 4"):
        write(made, route, inputs)
    with pytest.raises(RouteError, match="per token"):
        write(made, [["lora"] * max(LENGTHS)] * 4, inputs)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_new_token": 3}, UnknownNameError, "Did you mean 'max_new_tokens'"),
        ({"do_sample": True, "num_beams": 2}, ConfigError, "beam sample"),
        ({"num_return_sequences": 2}, ConfigError, "Greedy methods"),
        ({"penalty_alpha": 0.6, "top_k": 4}, ConfigError, "contrastive search"),
        ({"prompt_lookup_num_tokens": 2}, ConfigError, "assisted"),
        ({"max_length": 9}, ConfigError, "Pass max_new_tokens"),
        ({"min_length": 9}, ConfigError, "Pass min_new_tokens"),
        ({"max_new_tokens": 60}, BackboneError, "64 positions"),
        ({"seed": [1, 2]}, ConfigError, "2 seeds were given for 4 rows"),
        ({"pad_token_id": None}, BackboneError, "no pad token"),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_errors(options, error, words):
    """Unknown options, strategies in which rows see each other, lengths that count padding, no pad token."""
    model = language_model("gpt2")
    inputs = padded(model, prompts(LENGTHS))
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    made = bank(model, names=("lora",))
    with pytest.raises(error, match=words):
        generate(made, made.frame("lora"), inputs, **{"max_new_tokens": 6, "pad_token_id": 0, **options})


def test_rows_padded_on_the_right_are_refused():
    """A decoder would go on from the padding; an encoder does not mind."""
    model = language_model("gpt2")
    inputs = padded(model, prompts(LENGTHS))
    with pytest.raises(DataError, match="row 0 is padded on the right"):
        write(bank(model), ROUTE, {name: tensor.flip(1) for name, tensor in inputs.items()})


def test_encoder_decoders_take_what_decoders_cannot():
    """`max_length` bounds what a decoder of its own writes; chunks of a prompt that it does not have are refused."""
    model = language_model("t5")
    made, inputs = bank(model), padded(model, prompts(LENGTHS))
    assert generate(made, made.frame(ROUTE), inputs, max_length=5, min_length=5).shape[1] == 5
    with pytest.raises(ConfigError, match="prefill_chunk_size"):
        write(made, ROUTE, inputs, prefill_chunk_size=2)


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_what_reads_from_both_sides_writes_nothing(family):
    """An encoder is no decoder, whatever class transformers has for it."""
    with pytest.raises(BackboneError, match="cannot write one"):
        Shell(Backbone.open(tiny.backbone(family)), "AutoModelForCausalLM", {})


def test_every_family_is_there() -> None:
    """Each family of the table that has a language model writing texts is tried."""
    assert set(DECODERS) | set(PAIRED) <= {*tiny.FAMILIES, *tiny.WRITE_ONLY}
