"""`Tuner.generate` and `AdaptedModel.generate`: texts in, texts out, by one adapter or by many."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from petune import AdaptedModel, AdapterStore, TrainConfig, Tuner
from petune.errors import AdapterError, BackboneError, ConfigError, DataError, RouteError, UnknownNameError
from tests import tiny
from tests.conformance.subjects import method
from tests.language import language_model, padded, prompts, rows, task

QUIET = TrainConfig(epochs=24, batch_size=8, progress="off", learning_rate=1e-2)
RECIPES = {"lora": {}, "bottleneck": {}, "prefix": {"length": 3}}


def texts(family: str, n: int = 6) -> list[str]:
    """Prompts, or sources."""
    return [next(iter(row.values())) for row in rows(family, n)]


def tuner(model: Any, family: str, recipe: str = "lora", **knobs: Any) -> Tuner:
    """A fitted tuner that writes a few pieces."""
    made = Tuner(
        model, task=task(family, max_new_tokens=6, **knobs), method=method(recipe, **RECIPES.get(recipe, {})),
        tokenizer=tiny.tokenizer(family), name=recipe,
    )  # fmt: skip
    return made.fit(rows(family), config=QUIET)


@pytest.fixture(scope="module", params=["llama", "t5"])
def crowd(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tuner], AdaptedModel]:
    """Three adapters on one language model, fitted apart, and the model with all of them."""
    family = request.param
    model = language_model(family)
    tuners = {recipe: tuner(model, family, recipe) for recipe in RECIPES}
    adapted = AdaptedModel(model, tokenizer=tiny.tokenizer(family))
    for name, made in tuners.items():
        adapted.add(name, made)
    return family, tuners, adapted


def test_it_learns_to_answer():
    """After a few epochs most prompts are followed by their completion, and prediction is generation."""
    model = language_model("qwen3")
    made = tuner(model, "qwen3")
    data = rows("qwen3")
    found = made.predict([row["prompt"] for row in data])
    assert sum(text == row["completion"] for text, row in zip(found, data, strict=True)) > len(data) / 2
    assert found == made.generate([row["prompt"] for row in data])
    assert made.classes_ == ()
    figures = made.evaluate(data)
    assert figures["token_accuracy"] > 0.5
    assert figures.per_class == []


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "seed": [3, 1, 4, 1, 5, 9]}, {"num_beams": 2, "num_return_sequences": 2}],
    ids=["greedy", "sampled", "beam"],
)
def test_many_adapters_write_as_each_does_alone(crowd, options):
    """Each text is followed by what its own tuner writes; the order of batches and neighbours does not matter."""
    family, tuners, adapted = crowd
    names = ["lora", "prefix", "bottleneck", "prefix", "lora", "bottleneck"]
    found = adapted.generate(texts(family), names, batch_size=4, **options)
    for row, name in enumerate(names):
        alone = {**options, **({"seed": [options["seed"][row]]} if "seed" in options else {})}
        assert tuners[name].generate([texts(family)[row]], **alone) == [found[row]], (row, name)
    assert [type(text) for text in found] == [list if "num_return_sequences" in options else str] * 6


def test_one_number_seeds_every_text(crowd):
    """Text i draws with seed + i, whatever batch it falls into."""
    family, tuners, adapted = crowd
    made = tuners["lora"]
    first = made.generate(texts(family), batch_size=2, do_sample=True, seed=7)
    assert first == made.generate(texts(family), do_sample=True, seed=range(7, 13))
    assert first == adapted.generate(texts(family), "lora", batch_size=3, do_sample=True, seed=7)
    assert first != made.generate(texts(family), do_sample=True, seed=8)


def test_tensors_are_written_on(crowd):
    """A batch of tensors with a route gives token ids, as `generate` of transformers does."""
    family, _, adapted = crowd
    model = language_model(family)
    inputs = padded(model, prompts((5, 3, 4, 6)))
    route = ["lora", None, "prefix", "bottleneck"]
    ids = adapted.generate(route=route, **inputs, max_new_tokens=4)
    assert ids.shape[0] == 4
    with adapted.routed(route):
        assert torch.equal(adapted.generate(**inputs, max_new_tokens=4), ids)
    adapted.use("lora")
    whole = adapted.generate(**inputs, max_new_tokens=4)
    assert torch.equal(whole, adapted.generate(route="lora", **inputs, max_new_tokens=4))
    adapted.use(None)
    plain = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(adapted.generate(**inputs, max_new_tokens=4), plain)


def test_prediction_mixes_tasks(crowd):
    """One call, rows of classifiers and of language models: labels beside texts."""
    family, _, adapted = crowd
    stars = Tuner(language_model(family), tokenizer=tiny.tokenizer(family), name="stars")
    stars.fit(tiny.rows(8), config=TrainConfig(epochs=1, progress="off"))
    adapted.add("stars", stars)
    try:
        found = adapted.predict(texts(family, 3), ["lora", "stars", "prefix"])
        assert found[1] in stars.classes_
        assert [found[0], found[2]] == adapted.generate([texts(family)[0], texts(family)[2]], ["lora", "prefix"])
        with pytest.raises(AdapterError, match="'stars' was trained for sequence-classification"):
            adapted.generate(texts(family, 2), ["lora", "stars"])
        with pytest.raises(AdapterError, match="writes no texts"):
            stars.generate(["a film"])
        with pytest.raises(ConfigError, match="no classes"):
            adapted.predict_proba(texts(family, 1), "lora")
    finally:
        adapted.remove("stars")


def test_a_store_brings_adapters_that_write(crowd, tmp_path):
    """Adapters on disk are loaded when a text or a route first names them, one at a time if memory holds no more."""
    family, tuners, adapted = crowd
    for name, made in tuners.items():
        made.save(tmp_path / name)
    names = ["lora", "prefix", "bottleneck"]
    want = adapted.generate(texts(family, 3), names)
    for resident in (1, 3):
        store = AdapterStore(tmp_path, resident=resident)
        model = AdaptedModel(language_model(family), tokenizer=tiny.tokenizer(family), store=store)
        assert model.generate(texts(family, 3), names) == want
        assert model.predict(texts(family, 3), names) == want
    inputs = padded(language_model(family), prompts((4, 4)))
    assert model.generate(route=["lora", "prefix"], **inputs, max_new_tokens=2).shape[0] == 2


def test_the_tasks_knobs_are_options():
    """What the knobs ask for is the default and may be overruled; in one call every adapter keeps its own."""
    model = language_model("gpt2")
    short = tuner(model, "gpt2", generation={"num_beams": 2, "num_return_sequences": 2})
    found = short.predict(texts("gpt2", 2))
    assert [len(each) for each in found] == [2, 2]
    assert short.generate(texts("gpt2", 2), num_return_sequences=1) == [each[0] for each in found]
    greedy = tuner(model, "gpt2", "bottleneck")
    both = AdaptedModel(model, tokenizer=tiny.tokenizer("gpt2")).add("a", short).add("b", greedy)
    mixed = both.generate(texts("gpt2", 2), ["a", "b"])
    assert mixed == [found[0], greedy.generate(texts("gpt2", 2)[1:])[0]]


def test_full_fine_tuning_writes_by_itself():
    """A private model has no route, and writes all the same."""
    made = tuner(language_model("gpt2"), "gpt2", "full")
    found = made.predict(texts("gpt2"))
    assert found == [made.generate([text])[0] for text in texts("gpt2")]
    assert made.generate(texts("gpt2", 2), do_sample=True, seed=5) == made.generate(
        texts("gpt2", 2), do_sample=True, seed=5
    )


def test_dropout_answers_no_question():
    """Writing leaves modes as they are, and no module trains meanwhile."""
    model = language_model("t5", dropout=0.5)
    made = tuner(model, "t5")
    model.train()
    first = made.generate(texts("t5"))
    assert model.training
    assert model.encoder.block[0].training
    assert made.generate(texts("t5")) == first


def test_a_merged_adapter_writes():
    """`merge`, in the Tuner and in the adapted model: the same texts as before."""
    made = tuner(language_model("llama"), "llama")
    said = made.predict(texts("llama"))
    merged = made.merge()
    assert made.predict(texts("llama")) == said
    inputs = padded(merged, prompts((4,)))
    assert merged.generate(**inputs, max_new_tokens=2).shape[1] == 6
    made.unmerge()
    assert made.predict(texts("llama")) == said


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda model: model.generate(["a"], ["lora", "lora"]), RouteError, "2 adapters were named for 1 texts"),
        (lambda model: model.generate(["a"], ["lroa"]), RouteError, "Did you mean 'lora'"),
        (lambda model: model.generate(["a"]), RouteError, "No adapter was named"),
        (lambda model: model.generate("a film", "lora"), DataError, "One string was given"),
        (lambda model: model.generate(["a", ""], "lora"), DataError, "row 1"),
        (lambda model: model.generate(["a"], "lora", num_beam=2), UnknownNameError, "num_beams"),
        (lambda model: model.generate(["a"], "lora", seed=[1, 2]), ConfigError, "2 seeds were given for 1 rows"),
        (lambda model: model.generate(["a"], "lora", do_sample=True, num_beams=2), ConfigError, "beam sample"),
    ],
)
def test_wrong_calls_are_errors(crowd, call, error, words):
    """Names, texts, options and seeds that cannot be meant."""
    with pytest.raises(error, match=words):
        call(crowd[2])


def test_a_tokenizer_without_a_pad_token_is_refused():
    """Rows of several lengths cannot share a batch without one."""
    tokenizer = tiny.tokenizer("gpt2")
    tokenizer.pad_token = None
    made = Tuner(language_model("gpt2"), task=task("gpt2", max_new_tokens=6), tokenizer=tokenizer)
    with pytest.raises(BackboneError, match="no pad token"):
        made.fit(rows("gpt2"))


def test_what_cannot_be_a_language_model_is_told():
    """An encoder, a decoder as a sequence-to-sequence model, a head alone."""
    for family, name in (("bert", "causal-lm"), ("bart", "causal-lm"), ("t5", "causal-lm"), ("gpt2", "seq2seq-lm")):
        made = Tuner(tiny.backbone(family), task=name, tokenizer=tiny.tokenizer(family))
        data = [{"text": "a", "source": "a", "target": "b"}]
        with pytest.raises(BackboneError, match=r"cannot write one|has no"):
            made.fit(data, config=QUIET)
    made = Tuner(language_model("gpt2"), task="causal-lm", method="head", tokenizer=tiny.tokenizer("gpt2"))
    with pytest.raises(AdapterError, match="this task has none"):
        made.fit(rows("gpt2"), config=QUIET)
    plan = Tuner(language_model("llama"), task="causal-lm", tokenizer=tiny.tokenizer("llama")).plan()
    assert plan.head_parameters == 0
    assert plan.trainable_parameters > 0
