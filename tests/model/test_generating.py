"""Routed generation: every row of a mixed batch is written as if it were alone, by any strategy, cached or not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from petune.errors import BackboneError
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.generating import generate
from petune.model.merging import merge, unmerge
from petune.model.routing import Route, entered
from tests import tiny
from tests.language import PAIRED, WRITERS, bank, language_model, padded, prompts

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 0.9, "top_p": 0.95},
    "beam": {"num_beams": 3},
}
LENGTHS = (5, 9, 3, 7)
ROUTE: list[str | None] = ["lora", "bottleneck", "prefix", None]
SEEDS = [11, 12, 13, 14]


def write(bank: Bank, route: Route, inputs: dict[str, Tensor], **options: Any) -> Any:
    """One call of `generate`, six new pieces long."""
    return generate(bank, bank.frame(route), inputs, **{"max_new_tokens": 6, "pad_token_id": pad(bank), **options})


def pad(bank: Bank) -> int:
    """The pad piece."""
    return int(bank.backbone.model.config.pad_token_id)


def new(model: PreTrainedModel, sequence: Tensor, prompt: int) -> list[int]:
    """The pieces that were written, up to the end-of-sequence piece."""
    pieces = sequence[1 if model.config.is_encoder_decoder else prompt :].tolist()
    end = model.config.eos_token_id
    return pieces[: pieces.index(end) + 1] if end in pieces else [p for p in pieces if p != model.config.pad_token_id]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", WRITERS)
def test_rows_of_a_mixed_batch_equal_solo_runs(family, strategy):
    """Each row has the pieces, and the logits to 1e-5, of the call with its adapter alone; cached and recomputed."""
    model = language_model(family)
    made, texts = bank(model), prompts(LENGTHS)
    options = {**STRATEGIES[strategy], "return_dict_in_generate": True, "output_logits": True}
    solo = [
        write(made, name, padded(model, [text]), seed=[seed], **options)
        for name, text, seed in zip(ROUTE, texts, SEEDS, strict=True)
    ]
    assert len({tuple(new(model, one.sequences[0], len(text))) for one, text in zip(solo, texts, strict=True)}) > 1
    for use_cache in (True, False):
        mixed = write(made, ROUTE, padded(model, texts), seed=SEEDS, use_cache=use_cache, **options)
        for row, (one, text) in enumerate(zip(solo, texts, strict=True)):
            alone = new(model, one.sequences[0], len(text))
            assert new(model, mixed.sequences[row], max(LENGTHS)) == alone, (row, use_cache)
            for step in range(len(alone) if strategy != "beam" else 0):
                differ = float((mixed.logits[step][row] - one.logits[step][0]).abs().max())
                assert differ <= 1e-5 * max(1.0, float(one.logits[step].abs().max()) / 10), (row, step, use_cache)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_adapters_in_training_write_as_seated_ones(family):
    """A bank whose layers are called one by one writes the same pieces."""
    model = language_model(family)
    inputs = padded(model, prompts(LENGTHS))
    seated = write(bank(model), ROUTE, inputs)
    assert torch.equal(write(bank(language_model(family), live=True), ROUTE, inputs), seated)


@pytest.mark.parametrize("family", WRITERS)
def test_without_adapters_it_is_transformers_own(family):
    """The bare route writes what the language model itself writes, the head and its ties included."""
    model = language_model(family)
    inputs = padded(model, prompts(LENGTHS))
    plain = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(write(bank(model, names=()), None, inputs), plain)
    assert torch.equal(write(bank(model, names=("lora",)), [None] * 4, inputs), plain)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bart"])
def test_it_writes_what_forwards_say(family):
    """Greedy pieces are the best ones of whole forwards: no position shifts behind a prefix, no cache loses it."""
    model = language_model(family)
    made, text = bank(model), prompts((6,))[0]
    for name in ("prefix", "lora"):
        shell = made.find(name).shell
        written = write(made, name, padded(model, [text]))[0]
        # The last piece may be the end that BART's settings force.
        for end in range(1 if family in PAIRED else len(text), len(written) - 1):
            given = {"input_ids": text[None] if family in PAIRED else written[None, :end]}
            if family in PAIRED:
                given["decoder_input_ids"] = written[None, :end]
            with entered(made.frame(name)), torch.no_grad():
                assert int(shell.model(**given).logits[0, -1].argmax()) == int(written[end]), (name, end)


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "t5", "bart"])
def test_caches_of_a_fixed_size_are_right_under_prefixes(family):
    """A static cache, whose mask `generate` makes itself, gives the pieces of the growing one."""
    model = language_model(family)
    made, inputs = bank(model), padded(model, prompts(LENGTHS))
    route = ["long", None, "prefix", "wider"]
    for options in ({}, {"num_beams": 2}):
        static = write(made, route, inputs, cache_implementation="static", **options)
        assert torch.equal(static, write(made, route, inputs, **options))


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize(
    "options",
    [{"do_sample": True, "num_return_sequences": 3}, {"num_beams": 3, "num_return_sequences": 2}],
    ids=["sampled", "beam"],
)
def test_several_sequences_of_a_row_stay_with_it(family, options):
    """`num_return_sequences`: the sequences of a row follow each other, differ, and equal those of its solo run."""
    model = language_model(family)
    made, texts, times = bank(model), prompts(LENGTHS), options["num_return_sequences"]
    mixed = write(made, ROUTE, padded(model, texts), seed=SEEDS, **options)
    assert len(mixed) == times * len(ROUTE)
    for row, (name, text) in enumerate(zip(ROUTE, texts, strict=True)):
        solo = write(made, name, padded(model, [text]), seed=[SEEDS[row]], **options)
        own = [new(model, sequence, max(LENGTHS)) for sequence in mixed[row * times : (row + 1) * times]]
        assert own == [new(model, sequence, len(text)) for sequence in solo]
        assert len({tuple(pieces) for pieces in own}) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.6},
        {"no_repeat_ngram_size": 1},
        {"bad_words_ids": [[7], [9, 11]]},
        {"min_new_tokens": 6},
    ],
    ids=str,
)
def test_what_looks_back_does_not_see_the_padding(options):
    """Penalties and bans that read the pieces before treat a padded row as if it were alone, with pad = end."""
    model = language_model("gpt2")
    made, texts = bank(model, names=("lora", "bottleneck", "prefix")), prompts(LENGTHS)
    end = {"pad_token_id": model.config.eos_token_id}
    mixed = write(made, ROUTE, padded(model, texts), **options, **end)
    for row, (name, text) in enumerate(zip(ROUTE, texts, strict=True)):
        solo = write(made, name, padded(model, [text]), **options, **end)
        assert new(model, mixed[row], max(LENGTHS)) == new(model, solo[0], len(text)), row


def test_samples_are_the_rows_own():
    """The same seed draws the same pieces beside other neighbours; another seed others; torch's numbers stay."""
    model = language_model("llama")
    made, texts = bank(model), prompts(LENGTHS)
    before = torch.get_rng_state()
    first = write(made, ROUTE, padded(model, texts), do_sample=True, seed=7)
    assert torch.equal(first, write(made, ROUTE, padded(model, texts), do_sample=True, seed=[7, 8, 9, 10]))
    assert not torch.equal(first, write(made, ROUTE, padded(model, texts), do_sample=True, seed=8))
    swapped = write(made, ROUTE[::-1], padded(model, texts[::-1]), do_sample=True, seed=[10, 9, 8, 7])
    assert torch.equal(swapped.flip(0), first)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("family", PAIRED)
def test_the_encoder_reads_each_row_once(family):
    """The encoder runs once, on the rows before they are repeated for beams."""
    model = language_model(family)
    made, seen = bank(model), []
    handle = made.backbone.model.encoder.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    write(made, ROUTE, padded(model, prompts(LENGTHS)), num_beams=3)
    handle.remove()
    assert [tuple(state.shape[:2]) for state in seen] == [(4, max(LENGTHS))]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_threads_write_side_by_side(family):
    """Several calls at once, with routes of their own, give the bits that each gives alone."""
    model = language_model(family)
    made, inputs = bank(model), padded(model, prompts(LENGTHS))
    routes = [ROUTE, ROUTE[::-1], "lora", "prefix", None, ["long"] * 4]
    alone = [write(made, route, inputs, do_sample=True) for route in routes]
    with ThreadPoolExecutor(len(routes)) as pool:
        for _ in range(2):
            found = list(pool.map(lambda route: write(made, route, inputs, do_sample=True), routes))
            assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_a_call_leaves_nothing_behind():
    """Settings of one call, and an error in it, do not reach the next; the model's own settings stay."""
    model = language_model("gpt2")
    made, inputs = bank(model), padded(model, prompts(LENGTHS))
    first = write(made, ROUTE, inputs)
    kept = made.find("lora").shell.model.generation_config.to_dict()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(made, ROUTE, inputs, stopping_criteria=[fail])
    write(made, ROUTE, inputs, num_beams=2, cache_implementation="static", repetition_penalty=1.5)
    assert made.find("lora").shell.model.generation_config.to_dict() == kept
    assert torch.equal(write(made, ROUTE, inputs), first)


def test_the_checkpoints_own_settings_count(tmp_path):
    """What `generation_config.json` says is the default, for a folder and for a model that was handed over."""
    model = language_model("gpt2")
    model.generation_config.update(num_beams=3, repetition_penalty=1.7)
    model.save_pretrained(tmp_path)
    inputs = padded(model, prompts(LENGTHS))
    plain = model.generate(**inputs, max_new_tokens=6)
    for source in (model, tmp_path):
        assert torch.equal(write(bank_on(source), None, inputs), plain)
        assert not torch.equal(write(bank_on(source), None, inputs, num_beams=1, repetition_penalty=1.0), plain)


def bank_on(source: Any) -> Bank:
    """An empty bank on a folder or model."""
    return Bank(Backbone.open(source))


def test_each_adapter_writes_by_its_own_head():
    """On a backbone without an lm_head every adapter has its own; a mixed batch uses each row's."""
    model = tiny.backbone("llama")
    made, texts = bank(model), prompts(LENGTHS)
    route = ["lora", "bottleneck", "prefix", "lora"]
    assert all(list(made.find(name).head()) == ["lm_head.weight"] for name in route)
    mixed = write(made, route, padded(model, texts), num_beams=2)
    for row, (name, text) in enumerate(zip(route, texts, strict=True)):
        solo = write(made, name, padded(model, [text]), num_beams=2)
        assert new(model, mixed[row], max(LENGTHS)) == new(model, solo[0], len(text)), row
    for wrong in (ROUTE, None):
        with pytest.raises(BackboneError, match="without a language modelling head"):
            write(made, wrong, padded(model, texts))


def test_a_merged_adapter_writes_as_an_active_one():
    """The merged adapter's route, and no other, writes the pieces it wrote before."""
    model = language_model("llama")
    made, inputs = bank(model), padded(model, prompts(LENGTHS))
    active = write(made, "lora", inputs)
    merge(made, made.find("lora"))
    assert torch.equal(write(made, "lora", inputs), active)
    unmerge(made)
    assert torch.equal(write(made, "lora", inputs), active)
