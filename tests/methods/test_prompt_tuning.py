"""Prompt tuning: where prompts stand, that padding, labels and generation are right with them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from petune import CausalLM, TrainConfig, Tuner
from petune.errors import BackboneError, ConfigError
from petune.methods._token_rows import TokenRows
from petune.methods.prompt_tuning import FIRST, PromptTuning
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.generating import generate
from petune.model.learner import Learner
from petune.model.prompting import lengthened
from petune.model.running import run
from tests import language, tiny
from tests.conformance.subjects import add, batch, differ, method, open_backbone, task
from tests.tuners import QUIET, refused

LENGTH = 3


def bank_of(model: Any, *lengths: int) -> Bank:
    """Shaken prompts of these lengths, seated as `p3` and so on, and a LoRA, on a language model."""
    bank, family = Bank(Backbone.open(model)), str(model.config.model_type)
    for length in lengths:
        torch.manual_seed(length)
        bank.seat(Adapter.make(bank.backbone, f"p{length}", PromptTuning(length=length), language.task(family)))
    torch.manual_seed(0)
    bank.seat(Adapter.make(bank.backbone, "lora", method("lora"), language.task(family)))
    return bank


def by_hand(bank: Bank, name: str, text: Tensor) -> Tensor:
    """The vectors of a text with its prompt in front, (1, P + T, D), made without petune."""
    layer = bank.find(name).body.layers["soft_prompt"]
    assert isinstance(layer, TokenRows)
    return torch.cat([layer.rows, bank.backbone.model.get_input_embeddings()(text)]).unsqueeze(0)


def told(mask: list[list[int]], model: Any, *, route: Any = "p3", writes: bool = False) -> list[list[int]]:
    """What a batch with these masks becomes: pads 0, pieces 9, prompts 1, 2, 3."""
    bank = bank_of(model, 3, 1)
    ids = torch.tensor(mask) * 9
    inputs = {"input_ids": ids, "attention_mask": torch.tensor(mask)}
    longer = lengthened(bank.frame(route), bank.find("p3").shell, inputs, writes=writes)
    assert longer is not None
    made = longer.inputs["input_ids"]
    assert torch.equal(longer.inputs["attention_mask"], (made != (bank.backbone.pad_token_id or 0)).long())
    assert torch.equal(made.gather(1, longer.places), ids)
    return [[piece if piece >= 0 else FIRST - piece + 1 for piece in row] for row in made.tolist()]


def test_prompts_stand_beside_the_text() -> None:
    """On the left of it, wherever the padding is; rows with shorter prompts, or none, are padded to the same width."""
    model = language.language_model("gpt2")
    assert told([[1, 1, 0], [1, 1, 1]], model) == [[1, 2, 3, 9, 9, 0], [1, 2, 3, 9, 9, 9]]
    assert told([[0, 1, 1], [1, 1, 1]], model) == [[0, 1, 2, 3, 9, 9], [1, 2, 3, 9, 9, 9]]
    routes = ["p3", "p1", "lora"]
    assert told([[1, 1], [1, 1], [1, 1]], model, route=routes) == [[1, 2, 3, 9, 9], [1, 9, 9, 0, 0], [9, 9, 0, 0, 0]]
    assert told([[1, 1], [1, 1], [0, 1]], model, route=routes, writes=True) == [
        [1, 2, 3, 9, 9], [0, 0, 1, 9, 9], [0, 0, 0, 0, 9]
    ]  # fmt: skip


def test_an_encoder_keeps_its_first_piece_first() -> None:
    """Classifiers read it, so the prompt stands behind it."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single", 2)
    adapter = add(bank, "mine", method("prompt-tuning", length=2), "single")
    longer = lengthened(bank.frame("mine"), adapter.shell, inputs)
    assert longer is not None
    ids = longer.inputs["input_ids"]
    assert ids[:, 0].equal(inputs["input_ids"][:, 0])
    assert ids[0, 1:3].tolist() == [FIRST, FIRST - 1]
    assert ids[:, 3:].equal(inputs["input_ids"][:, 1:])
    assert longer.inputs["token_type_ids"].shape == ids.shape


@pytest.mark.parametrize("family", language.DECODERS)
@torch.no_grad()
def test_logits_are_those_of_vectors_in_front(family: str) -> None:
    """A decoder's logits at its pieces are transformers' own, given the vectors; the prompt's places are left out."""
    model = language.language_model(family)
    bank, text = bank_of(model, LENGTH), language.prompts((7,))[0]
    found = run(bank, bank.frame("p3"), {"input_ids": text[None], "attention_mask": torch.ones(1, 7).long()}).logits
    want = model(inputs_embeds=by_hand(bank, "p3", text)).logits[:, LENGTH:]
    assert found.shape == want.shape
    assert differ(found, want) <= 1e-5


@pytest.mark.parametrize("family", [*language.DECODERS, "t5", "bart"])
@torch.no_grad()
def test_a_mixed_batch_writes_what_each_row_writes_alone(family: str) -> None:
    """Prompts of two lengths, a LoRA and the bare model in one padded batch: greedy, by beams, without a cache."""
    model = language.language_model(family)
    bank = bank_of(model, 3, 5)
    route, texts = ["p3", "p5", "lora", None], language.prompts((4, 9, 6, 7))
    inputs = language.padded(model, texts)
    processed = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    for options in ({}, {"num_beams": 2, "num_return_sequences": 2}, {"use_cache": False}, processed):
        several = options.get("num_return_sequences", 1)
        together = generate(bank, bank.frame(route), inputs, max_new_tokens=6, **options)
        for row, (name, text) in enumerate(zip(route, texts, strict=True)):
            alone = generate(
                bank, bank.frame([name]), language.padded(model, [text]), max_new_tokens=6, **options
            )  # fmt: skip
            for number in range(several):
                made, want = together[row * several + number].tolist(), alone[number].tolist()
                if not model.config.is_encoder_decoder:
                    assert made[: inputs["input_ids"].shape[1]] == inputs["input_ids"][row].tolist()
                    made, want = made[inputs["input_ids"].shape[1] :], want[len(text) :]
                pad = model.config.pad_token_id
                assert [p for p in made if p != pad] == [p for p in want if p != pad], (options, name)


@torch.no_grad()
def test_generation_is_transformers_own_given_the_vectors() -> None:
    """Greedy pieces, with the key-value cache, are those of `generate(inputs_embeds=...)`."""
    model = language.language_model("llama")
    bank, text = bank_of(model, LENGTH), language.prompts((6,))[0]
    made = generate(bank, bank.frame("p3"), language.padded(model, [text]), max_new_tokens=8)
    want = model.generate(inputs_embeds=by_hand(bank, "p3", text), max_new_tokens=8, do_sample=False)
    assert made[0, 6:].tolist() == want[0].tolist()


def test_a_streamer_sees_the_prompt_that_was_given() -> None:
    """No piece that stands for a vector reaches it."""
    seen: list[Tensor] = []

    class Streamer:
        def put(self, value: Tensor) -> None:
            seen.append(value)

        def end(self) -> None:
            seen.append(torch.tensor([]))

    model = language.language_model("llama")
    bank, inputs = bank_of(model, LENGTH), language.padded(model, language.prompts((6,)))
    made = generate(bank, bank.frame("p3"), inputs, max_new_tokens=3, streamer=Streamer())
    assert torch.cat([value.flatten() for value in seen]).tolist() == made[0].tolist()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_labels_need_no_shift(family: str) -> None:
    """Tags and foretold pieces have their logits at their own places, also those asked for alone."""
    bank = Bank(open_backbone(family))
    adapter = add(bank, "mine", method("prompt-tuning"), "tokens")
    learner, inputs = Learner(bank, adapter), batch(family, "tokens")
    with torch.no_grad():
        assert learner(**inputs).shape[:2] == inputs["input_ids"].shape
    if family == "gpt2":
        writer = bank_of(language.language_model("gpt2"), LENGTH)
        mine, rows = (
            Learner(writer, writer.find("p3")),
            language.padded(language.language_model("gpt2"), language.prompts((4, 7))),
        )
        rows = {name: value.flip(1) for name, value in rows.items()}  # padded on the right, as in training
        places = torch.tensor([0, 3, 8, 12])
        with torch.no_grad():
            some, every = mine(at=places, **rows), mine(**rows)
        assert differ(some, every.flatten(0, 1)[places]) <= 1e-5


def test_a_fresh_prompt_is_drawn_from_the_vocabulary() -> None:
    """Each vector is that of a piece, the same ones for a seed."""
    backbone = open_backbone("bert")
    table = backbone.model.get_input_embeddings().weight
    torch.manual_seed(4)
    one = Adapter.make(backbone, "a", PromptTuning(length=6), task("single")).tensors()["soft_prompt"]["rows"]
    assert all(bool((table == row).all(1).any()) for row in one)
    torch.manual_seed(4)
    again = Adapter.make(backbone, "b", PromptTuning(length=6), task("single")).tensors()["soft_prompt"]["rows"]
    assert torch.equal(one, again)


def test_prompts_take_their_room() -> None:
    """Texts are cut to what is left of the backbone's positions, and a raw call beyond them is refused."""
    backbone = open_backbone("bert")
    assert backbone.positions_for(PromptTuning(length=10)) == (backbone.positions or 0) - 10
    bank = Bank(backbone)
    add(bank, "mine", method("prompt-tuning"), "single")
    longest = torch.full((1, backbone.positions or 0), 7)
    inputs = {"input_ids": longest, "attention_mask": torch.ones_like(longest)}
    refused(BackboneError, "pieces long|positions", lambda: run(bank, bank.frame("mine"), inputs))


def test_what_cannot_be_right_is_refused() -> None:
    """Blocks or modules of its own, classifiers that read a text twice, and no length."""
    for knobs in ({"top": 1}, {"layers": (0,)}, {"modules": ("query",)}):
        refused(ConfigError, "in front of all blocks", lambda knobs=knobs: PromptTuning(**knobs))
    refused(ConfigError, "length=0", lambda: PromptTuning(length=0))
    for family, kind in (("t5", "single"), ("bart", "single"), ("t5", "answers")):
        bank = Bank(open_backbone(family))
        refused(BackboneError, "reads the text once more|seq2seq-lm", lambda bank=bank, kind=kind: add(
            bank, "mine", method("prompt-tuning"), kind))  # fmt: skip


def test_packed_texts_are_refused() -> None:
    """Several of them share a row, and a prompt stands before one."""
    tuner = Tuner(language.language_model("gpt2"), tokenizer=tiny.tokenizer("gpt2"), method="prompt-tuning",
                  task=CausalLM(packing=True, max_length=24, max_new_tokens=8))  # fmt: skip
    rows = [{"text": row["text"]} for row in tiny.rows(8)]
    refused(ConfigError, "do not go with packed", lambda: tuner.fit(rows, config=TrainConfig(epochs=1, **QUIET)))


def test_a_prompt_and_markers_share_a_table() -> None:
    """A relation's adapter that is prompt-tuned has both, in pieces that do not meet."""
    bank = Bank(open_backbone("bert"))
    adapter = add(bank, "mine", method("prompt-tuning"), "relation")
    assert {"soft_prompt"} == set(adapter.body.layers)
    inputs = batch("bert", "relation")
    with torch.no_grad():
        before = adapter.task.logits(run(bank, bank.frame("mine"), inputs), inputs)
        adapter.body.layers["soft_prompt"].rows.neg_()  # type: ignore[operator]
        after = adapter.task.logits(run(bank, bank.frame("mine"), inputs), inputs)
        adapter.shell.head()["bert.own_rows.rows"].neg_()
        last = adapter.task.logits(run(bank, bank.frame("mine"), inputs), inputs)
    assert min(differ(before, after), differ(after, last)) > 1e-4
    assert bank.backbone.vocabulary == tiny.VOCABULARY
