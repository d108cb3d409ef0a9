"""Prompt classification: templates, words and their pieces, what is read, few and no rows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from petune import AdaptedModel, PromptClassification, TrainConfig, Tuner
from petune.errors import AdapterError, BackboneError, ConfigError, DataError
from petune.tasks._cloze import joined
from petune.tasks._shots import k_shot
from tests import tiny
from tests.language import language_model
from tests.tasks.tables import reread, table
from tests.tuners import QUIET, TOKENIZER, refused

WORDS: dict[str, Any] = {"bad": ["awful", "dull"], "good": "great"}
TEMPLATE = "{text} it was {mask} ."
ROWS = tiny.rows(16)


def task(**knobs: Any) -> PromptClassification:
    """A task that knows its labels and columns."""
    return PromptClassification(**{"template": TEMPLATE, "verbalizer": WORDS, **knobs}).ready()


def pieces(made: PromptClassification, row: dict[str, Any], tokenizer: Any = TOKENIZER, longest: int = 64) -> list[str]:
    """What a row is for the model, the place of its answer in angle brackets."""
    example = made.encode(table([row]), tokenizer, longest=longest, labelled=False).examples[0]
    told = tokenizer.convert_ids_to_tokens(example["input_ids"])
    return [f"<{word}>" if here else word for word, here in zip(told, example["answer_place"], strict=True)]


def test_a_template_is_filled_and_its_gap_is_read() -> None:
    """A masked model is read at its mask, a causal one at the piece before the answer."""
    assert pieces(task(), {"text": "anna [MASK] saw"}) == [
        "[CLS]", "anna", "[MASK]", "saw", "it", "was", "<[MASK]>", ".", "[SEP]",
    ]  # fmt: skip
    causal = task(model="causal", template="the film : {text} it was {mask}")
    assert pieces(causal, {"text": "anna saw"}) == ["[CLS]", "the", "film", ":", "anna", "saw", "it", "<was>"]
    pair = task(template="{text} ? {mask} , {text_pair}")
    both = {"text": "anna", "text_pair": "oslo"}
    assert pieces(pair, both) == ["[CLS]", "anna", "?", "<[MASK]>", ",", "oslo", "[SEP]"]


def test_byte_level_pieces_are_those_of_running_text() -> None:
    """Words keep the space before them, in the template and in the verbalizer."""
    tokenizer = tiny.tokenizer("qwen2")
    made = task(model="causal", template="film: {text} it was {mask}")
    found = pieces(made, {"text": "anna saw"}, tokenizer)
    assert [word.strip("<>") for word in found] == tokenizer.tokenize("film: anna saw it was")
    example = made.encode(table([{"text": "a"}]), tokenizer, longest=64, labelled=False).examples[0]
    first = [tokenizer(f" {word}")["input_ids"][0] for word in ("awful", "dull", "great")]
    assert example["answer_pieces"] == [first[0] + 1, first[1] + 1, first[2] + 1, 0]


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "deberta-v2", "modernbert"])
def test_zero_shot_is_what_the_masked_model_says(family: str, tmp_path: Path) -> None:
    """The probabilities are transformers' own at the mask, of the words alone, each label's words by their mean."""
    folder = tiny.mlm_folder(family, tmp_path)
    tuner = Tuner(str(folder), task=PromptClassification(template=TEMPLATE, verbalizer=WORDS)).zero_shot()
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = tiny.tokenizer(family)
    given = tokenizer(f"a film it was {tokenizer.mask_token} .", return_tensors="pt")
    at = int((given["input_ids"][0] == tokenizer.mask_token_id).nonzero())
    told = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits[0, at].softmax(-1)
    awful, dull, great = tokenizer.convert_tokens_to_ids(["awful", "dull", "great"])
    share = torch.stack([(told[awful] + told[dull]) / 2, told[great]])
    found = torch.from_numpy(tuner.predict_proba(["a film"]))[0]
    assert torch.allclose(found, share / share.sum(), atol=1e-5)
    assert set(tuner.evaluate(ROWS)) >= {"accuracy", "f1_macro"}


def test_zero_shot_is_what_the_causal_model_says(tmp_path: Path) -> None:
    """At the last piece of the template; padding beside a longer row changes nothing."""
    model, tokenizer = language_model("llama"), tiny.tokenizer("llama")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    knobs = {"model": "causal", "template": "{text} it was {mask}", "verbalizer": {"bad": "awful", "good": "great"}}
    tuner = Tuner(str(tmp_path), task=PromptClassification(**knobs)).zero_shot()
    ids = tokenizer("a film it was", return_tensors="pt")["input_ids"][:, :-1]
    told = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(input_ids=ids).logits[0, -1]
    want = told[tokenizer.convert_tokens_to_ids(["awful", "great"])].softmax(-1)
    found = torch.from_numpy(tuner.predict_proba(["a film", "a film " * 9]))[0]
    assert torch.allclose(found, want, atol=1e-5)


def test_few_rows_are_drawn_by_the_seed() -> None:
    """So many of each class; the same for a seed; a class with too few is refused."""
    names = ["a", "b", "c"] * 20
    drawn = k_shot(names, 4, seed=3)
    assert sorted(names[index] for index in drawn) == sorted("abc" * 4)
    assert drawn == k_shot(names, 4, seed=3) != k_shot(names, 4, seed=4)
    # What is drawn of one class does not depend on the others.
    assert [i for i in drawn if names[i] == "a"] == [
        i for i in k_shot([n if n == "a" else "z" for n in names], 4, seed=3) if names[i] == "a"
    ]
    refused(DataError, "class 'b' has 1 rows|shots=2", lambda: k_shot(["a", "a", "b"], 2, seed=0))


def test_a_few_shot_run_learns_saves_and_serves(tmp_path: Path) -> None:
    """With shots=4 eight rows are seen; the adapter is reloaded without arguments, routed beside another, merged."""
    folder = tiny.mlm_folder("bert", tmp_path)
    made = PromptClassification(template=TEMPLATE, verbalizer=WORDS, shots=4)
    tuner = Tuner(str(folder), task=made, name="mood")
    tuner.fit(ROWS, eval_data=0.25, config=TrainConfig(epochs=6, learning_rate=5e-3, seed=3, **QUIET))
    assert any("8 of 12 rows were drawn (seed 3)" in notice for notice in tuner.report.notices)
    losses = [row["loss"] for row in tuner.report.history if "loss" in row]
    assert losses[-1] < losses[0]
    texts = [row["text"] for row in ROWS[:5]]
    tuner.save(tmp_path / "mood")
    loaded = Tuner.load(tmp_path / "mood", check=True)
    assert (loaded.predict_proba(texts) == tuner.predict_proba(texts)).all()
    other = Tuner(str(folder), name="kind").fit(tiny.rows(12, classes=3), config=TrainConfig(epochs=1, **QUIET))
    model = AdaptedModel(str(folder)).add("mood", tmp_path / "mood").add("kind", other)
    names = ["mood", "kind", "mood", "kind", "mood"]
    apart = {"mood": tuner.predict(texts), "kind": other.predict(texts)}
    assert model.predict(texts, adapters=names) == [apart[name][row] for row, name in enumerate(names)]
    before = tuner.predict_proba(texts)
    tuner.merge()
    assert tuner.predict_proba(texts) == pytest.approx(before, abs=1e-5)


def test_words_of_several_pieces_are_told_by_the_first() -> None:
    """That is said; words that begin alike, unknown ones and one word for two labels are refused."""
    row = table([{"text": "a"}])

    def encoded(words: dict[str, Any]) -> Any:
        return task(verbalizer=words).encode(row, TOKENIZER, longest=64, labelled=False)

    assert "'playing' is told by its first piece, 'play'" in encoded({"a": "playing", "b": "great"}).notices[0]
    refused(ConfigError, "'playing' and 'play' both begin", lambda: encoded({"a": "playing", "b": "play"}))
    refused(ConfigError, "does not know the word '中'", lambda: encoded({"a": "中", "b": "great"}))
    refused(ConfigError, "the word 'great' twice", lambda: task(verbalizer={"a": "great", "b": "great"}))
    refused(ConfigError, "no word for 'a'", lambda: task(verbalizer={"a": [], "b": "great"}))
    refused(ConfigError, "has 3 for 'a'|list of words", lambda: task(verbalizer={"a": 3, "b": "great"}))
    refused(ConfigError, "words for 'worse'", lambda: PromptClassification(labels=("bad",), verbalizer={"worse": "x"}))


TEMPLATES = {
    "no mask": "{text} it was",
    "two masks": "{mask} {text} {mask}",
    "no text": "it was {mask}",
    "another field": "{text} {label} {mask}",
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_that_cannot_be_filled_is_refused(case: str) -> None:
    """Without a mask or a text, with several masks, or with fields that nobody fills."""
    refused(ConfigError, r"The template|It needs one|\{mask\}", lambda: PromptClassification(template=TEMPLATES[case]))


def test_more_that_is_refused() -> None:
    """Words behind a causal model's mask, a template longer than the limit, a tokenizer without a mask, no labels."""
    refused(ConfigError, "goes on behind its mask", lambda: task(model="causal"))
    refused(ConfigError, "template alone is longer", lambda: pieces(task(max_length=5), {"text": "a"}))
    refused(BackboneError, "no mask piece|causal", lambda: pieces(task(), {"text": "a"}, tiny.tokenizer("qwen2")))
    refused(ConfigError, "labels must be told", lambda: PromptClassification().ready())
    refused(ConfigError, "has no '{text_pair}'", lambda: PromptClassification(text_pair="other"))
    refused(ConfigError, "not learnt", lambda: PromptClassification().model_config())
    refused(DataError, "single class", lambda: PromptClassification().learn(table([{"text": "a", "label": "b"}] * 2)))


def test_a_tuner_without_an_adapter_names_zero_shot() -> None:
    """What can answer before it has learnt is told so, and nothing else is."""
    task = PromptClassification(template=TEMPLATE, verbalizer=WORDS)
    for method, said in (("lora", r"fit\(train\), zero_shot\(\) or Tuner"), ("prefix", r"fit\(train\) or Tuner")):
        tuner = Tuner(tiny.backbone("bert"), task=task, method=method, tokenizer=TOKENIZER)
        refused(AdapterError, said, lambda tuner=tuner: tuner.predict(["a film"]))
    plain = Tuner(tiny.backbone("bert"), tokenizer=TOKENIZER)
    refused(AdapterError, r"fit\(train\) or Tuner", lambda: plain.predict(["a film"]))


def test_zero_shot_refuses_what_answers_at_random() -> None:
    """A head that must learn, and a method that changes the answers at once."""
    refused(ConfigError, "learns its columns", lambda: Tuner(tiny.backbone("bert"), tokenizer=TOKENIZER).zero_shot())
    refused(ConfigError, "has a head", lambda: Tuner(tiny.backbone("bert"), tokenizer=TOKENIZER).zero_shot(ROWS))
    writer = {"tokenizer": tiny.tokenizer("llama"), "task": task(model="causal", template="{text} is {mask}")}
    refused(ConfigError, "'prefix' is no zero-shot", lambda: Tuner(
        language_model("llama"), method="prefix", **writer).zero_shot())  # fmt: skip


def test_long_texts_lose_their_ends_and_never_the_template() -> None:
    """Of two texts the longer one first; that rows were cut is said."""
    assert joined([[1] * 9, [0], [2] * 4], [0, 2], 9) == ([[1] * 4, [0], [2] * 4], True)
    row = {"text": "the " * 90}
    found = pieces(task(), row, longest=16)
    assert len(found) == 16
    assert found[-5:] == ["it", "was", "<[MASK]>", ".", "[SEP]"]
    encoded = task().encode(table([row]), TOKENIZER, longest=16, labelled=False)
    assert "1 of 1 rows were longer than 16 pieces" in encoded.notices[0]


def test_knobs_survive_a_file() -> None:
    """The verbalizer and the template come back from JSON as they were."""
    assert reread(task()) == task()
