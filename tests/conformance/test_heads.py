"""The head traps: what `from_pretrained` had to initialise is trained, saved and restored; inputs reach the model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from petune import AdaptedModel, TrainConfig, Tuner
from tests import tiny
from tests.conformance.subjects import differ, snapshot, tokenizer

QUIET = TrainConfig(epochs=3, batch_size=8, progress="off", learning_rate=2e-2)
DATA = tiny.rows(16)
TEXTS = [row["text"] for row in tiny.rows(6, seed=4)]
MISSING_POOLER = ("bert", "roberta", "xlm-roberta", "albert", "mpnet")
"""Families whose masked language model has no pooler, or whose classifier needs a part that it lacks."""


@pytest.mark.parametrize("recipe", ["lora", "prefix", "head", "full"])
def test_a_missing_pooler_is_part_of_the_head(recipe, tmp_path):
    """BERT from an MLM checkpoint: its pooler is drawn with the head, trained, saved, restored, and an overlay."""
    source = tiny.mlm_folder("bert", tmp_path)
    tuner = Tuner(source, method=recipe).fit(DATA, config=QUIET)
    shared = snapshot(tuner.backbone.model)
    head = tuner.adapter.head()
    if recipe != "full":  # which holds it as one weight of its own copy
        assert {"classifier.weight", "bert.pooler.dense.weight", "bert.pooler.dense.bias"} <= set(head)
        assert differ(head["bert.pooler.dense.weight"], shared["pooler.dense.weight"]) > 0
    said = tuner.predict_proba(TEXTS)
    tuner.save(tmp_path / "adapter")
    torch.manual_seed(99)  # the backbone's own pooler is drawn at random, so it must not matter
    loaded = Tuner.load(tmp_path / "adapter", check=True)
    assert differ(torch.tensor(loaded.predict_proba(TEXTS)), torch.tensor(said)) == 0


def test_each_adapter_has_its_own_pooler(tmp_path):
    """Two adapters on an MLM backbone keep their own poolers, in one batch and one after the other."""
    source = tiny.mlm_folder("bert", tmp_path)
    tuners = [
        Tuner(source, method="lora", name=name).fit(rows, config=QUIET)
        for name, rows in (("a", DATA), ("b", tiny.rows(24, classes=3)))
    ]
    model = AdaptedModel(source)
    before = snapshot(model.backbone.model)
    for tuner in tuners:
        model.add(tuner.name, tuner.save(tmp_path / tuner.name))
    names = ["a", "b", "b", "a", "b", "a"]
    solo = {tuner.name: tuner.predict(TEXTS) for tuner in tuners}
    assert model.predict(TEXTS, adapters=names) == [solo[name][row] for row, name in enumerate(names)]
    assert differ(model.backbone.model.pooler.dense.weight, before["pooler.dense.weight"]) == 0


@pytest.mark.parametrize("recipe", ["lora", "adalora"])
def test_merging_writes_the_pooler_too(recipe, tmp_path):
    """The merged model holds the adapter's pooler, and unmerge gives the shared one back."""
    tuner = Tuner(tiny.mlm_folder("bert", tmp_path), method=recipe).fit(DATA, config=QUIET)
    before, said = snapshot(tuner.backbone.model), tuner.predict_proba(TEXTS)
    model = tuner.merge()
    model.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        logits = loaded(**tuner.tokenizer(TEXTS, return_tensors="pt", padding=True)).logits
    assert differ(logits.softmax(-1), torch.tensor(said)) <= 1e-5
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    tuner.unmerge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(tuner.backbone.model).items())


@pytest.mark.parametrize("family", MISSING_POOLER)
def test_a_masked_language_model_object_is_a_backbone(family, tmp_path):
    """A loaded AutoModelForMaskedLM lacks the pooler as its checkpoint does: it is then a part of the head as well."""
    source = tiny.mlm_folder(family, tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(source)
    tuner = Tuner(model, tokenizer=tokenizer(family)).fit(DATA, config=QUIET)
    from_folder = Tuner(source, tokenizer=tokenizer(family)).fit(DATA, config=QUIET)
    assert set(tuner.adapter.head()) == set(from_folder.adapter.head())
    tuner.save(tmp_path / "adapter")
    again = Tuner.load(tmp_path / "adapter", backbone=source)
    assert again.predict(TEXTS) == tuner.predict(TEXTS)


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("deberta-v2", "pooler.dense.weight"),
        ("t5", "classification_head.dense.weight"),
        ("bart", "classification_head.dense.weight"),
        ("electra", "classifier.dense.weight"),
        ("distilbert", "pre_classifier.weight"),
        ("gpt2", "score.weight"),
        ("modernbert", "head.dense.weight"),
    ],
)
def test_every_part_of_a_head_is_trained_and_saved(family, part, tmp_path):
    """Parts besides the last linear map move in training, are no LoRA site, and come back from the file."""
    tuner = Tuner(tiny.backbone(family), tokenizer=tokenizer(family)).fit(DATA, config=QUIET)
    fresh = Tuner(tiny.backbone(family), tokenizer=tokenizer(family), method="head")
    fresh.fit(DATA, config=TrainConfig(epochs=1, learning_rate=1e-12, progress="off"))
    assert differ(tuner.adapter.head()[part], fresh.adapter.head()[part]) > 1e-3
    assert not any(path.startswith(part.rsplit(".", 2)[0]) for path in tuner.adapter.body.layers)
    loaded = Tuner.load(tuner.save(tmp_path), backbone=tiny.backbone(family))
    assert differ(loaded.adapter.head()[part], tuner.adapter.head()[part]) == 0


@pytest.mark.parametrize("family", tiny.WITH_TOKEN_TYPES)
@torch.no_grad()
def test_token_types_reach_the_model(family):
    """Changing `token_type_ids` changes the logits, solo and in a routed batch."""
    tuner = Tuner(tiny.backbone(family, type_vocab_size=2), tokenizer=tokenizer(family))
    with torch.enable_grad():
        tuner.fit(DATA, config=QUIET)
    model = AdaptedModel(tuner.backbone.model, tokenizer=tokenizer(family)).add("a", tuner)
    inputs = dict(tokenizer(family)(TEXTS[:2], return_tensors="pt", padding=True))
    other = {**inputs, "token_type_ids": 1 - inputs["token_type_ids"]}
    solo, changed = (model(**given, route="a").logits for given in (inputs, other))
    assert differ(solo, changed) > 1e-3
    mixed, moved = (model(**given, route=["a", None]).logits[0] for given in (inputs, other))
    assert differ(mixed, solo[0]) <= 1e-5
    assert differ(moved, changed[0]) <= 1e-5


@torch.no_grad()
def test_position_ids_reach_the_model():
    """Positions that the caller gives are used, also for rows of a routed batch."""
    tuner = Tuner(tiny.backbone("gpt2"), tokenizer=tokenizer("gpt2"))
    with torch.enable_grad():
        tuner.fit(DATA, config=QUIET)
    model = AdaptedModel(tuner.backbone.model, tokenizer=tokenizer("gpt2")).add("a", tuner)
    inputs = dict(tokenizer("gpt2")(TEXTS[:2], return_tensors="pt", padding=True))
    places = torch.arange(inputs["input_ids"].shape[1]).expand_as(inputs["input_ids"])
    for shift, equal in ((0, True), (5, False)):
        moved = model(**inputs, position_ids=places + shift, route="a").logits
        assert (differ(moved, model(**inputs, route="a").logits) <= 1e-6) == equal
        row = model(**inputs, position_ids=places + shift, route=["a", None]).logits[0]
        assert differ(row, moved[0]) <= 1e-5
