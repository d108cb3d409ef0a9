"""`AdaptedModel` as the public API lists it: many adapters on one backbone, tensors or texts in."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from petune import AdaptedModel, SequenceClassification, TrainConfig, Tuner
from petune.errors import AdapterError, BackboneError, RouteError
from petune.model.running import RoutedOutput
from tests import tiny
from tests.conformance.subjects import batch, differ
from tests.test_tuner import spelt

CONFIG = TrainConfig(epochs=2, batch_size=8, learning_rate=2e-2, progress="off")
TEXTS = [row["text"] for row in tiny.rows(6, seed=3)]


def trained(backbone: Any, family: str = "bert") -> dict[str, Tuner]:
    """Tuners of every kind of task, with several methods and label sets, on one backbone."""
    plans = {
        "mood": ("sequence-classification", "lora", tiny.rows(8)),
        "topic": ("sequence-classification", "bottleneck", tiny.rows(12, classes=6)),
        "many": ("sequence-classification", "prefix", tiny.multi_rows(8)),
        "score": (SequenceClassification(problem_type="regression"), "adalora", tiny.score_rows(8)),
        "names": ("token-classification", "head", tiny.tag_rows(8)),
    }
    return {
        name: Tuner(backbone, task=task, method=method, name=name, tokenizer=tiny.tokenizer(family)).fit(
            rows, config=CONFIG
        )
        for name, (task, method, rows) in plans.items()
    }


@pytest.fixture(scope="module")
def tuners() -> dict[str, Tuner]:
    """Trained once; nothing here changes them."""
    return trained(tiny.backbone("bert"))


@pytest.fixture
def model(tuners) -> AdaptedModel:
    """An adapted model with all of them, on a backbone object of its own."""
    made = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    for name, tuner in tuners.items():
        made.add(name, tuner)
    return made


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("__init__", "backbone tokenizer=None * store=None quantize=None"),
        ("add", "name adapter"),
        ("remove", "name"),
        ("use", "name"),
        ("routed", "route"),
        ("predict", "texts adapters=None batch_size=32 * errors='raise'"),
        ("predict_proba", "texts adapters=None batch_size=32"),
        ("replace", "name adapter"),
        ("__call__", "* route=Ellipsis inputs"),
    ],
)
def test_the_signatures_are_those_that_were_promised(name, parameters):
    """Later work builds on these names, their order and their defaults."""
    assert spelt(getattr(AdaptedModel, name)) == parameters.split()


def test_each_row_is_answered_in_the_labels_of_its_adapter(model, tuners):
    """Five tasks, methods and label sets in one call, in any order and batch size, equal five tuners alone."""
    names = ["score", "mood", "names", "topic", "many", "mood"]
    solo = {name: tuner.predict(TEXTS) for name, tuner in tuners.items()}
    for batch_size in (32, 2):
        found = model.predict(TEXTS, adapters=names, batch_size=batch_size)
        for row, name in enumerate(names):
            want = solo[name][row]
            assert found[row] == (pytest.approx(want, abs=1e-5) if name == "score" else want)
    assert model.predict(TEXTS, adapters="topic") == solo["topic"]
    assert model.use("many").predict(TEXTS) == solo["many"]
    assert model.predict([], adapters=[]) == []


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "distilbert"])
def test_other_families_answer_mixed_rows_too(family):
    """Decoders, a sequence-to-sequence model, and one without token types."""
    tuners = trained(tiny.backbone(family), family)
    model = AdaptedModel(tiny.backbone(family), tokenizer=tiny.tokenizer(family))
    for name, tuner in tuners.items():
        model.add(name, tuner)
    names = ["score", "mood", "names", "topic", "many", "mood"]
    found = model.predict(TEXTS, adapters=names)
    for row, name in enumerate(names):
        want = tuners[name].predict(TEXTS)[row]
        assert found[row] == (pytest.approx(want, abs=1e-4) if name == "score" else want)


@torch.no_grad()
def test_the_outputs_of_a_call(model):
    """A name: that adapter's transformers output. None: the backbone's. A list: one tensor of logits per row."""
    inputs = batch("bert", "single")
    assert model(**inputs, route="topic").logits.shape == (5, 6)
    bare = model(**inputs, route=None)
    assert differ(bare.last_hidden_state, model(**inputs).last_hidden_state) == 0
    mixed = model(**inputs, route=["mood", None, "topic", "names", "score"])
    assert isinstance(mixed, RoutedOutput)
    length = inputs["input_ids"].shape[1]
    assert [None if row is None else tuple(row.shape) for row in mixed.logits] == [(2,), None, (6,), (length, 5), (1,)]


@torch.no_grad()
def test_the_default_and_who_overrides_it(model):
    """A call's own route comes first, then `routed`, then `use`; leaving `routed` brings the default back."""
    inputs = batch("bert", "single")
    assert model.default is None
    assert model.use("mood").default == "mood"
    assert model(**inputs).logits.shape == (5, 2)
    with model.routed("topic") as inside:
        assert inside is model
        assert model(**inputs).logits.shape == (5, 6)
        assert model(**inputs, route="score").logits.shape == (5, 1)
        with model.routed(None):
            assert hasattr(model(**inputs), "last_hidden_state")
        assert model(**inputs).logits.shape == (5, 6)
    assert model(**inputs).logits.shape == (5, 2)
    model.remove("mood")
    assert model.default is None
    assert model.names == ("topic", "many", "score", "names")


@torch.no_grad()
def test_inside_routed_the_backbone_itself_is_adapted(model):
    """Direct calls of the backbone's modules see the route, and outside of it they are bare."""
    inputs = batch("bert", "single")
    inside = model.backbone.model
    bare = inside(**inputs).last_hidden_state
    with model.routed("topic"):
        assert differ(inside(**inputs).last_hidden_state, bare) > 1e-3
    assert differ(inside(**inputs).last_hidden_state, bare) == 0


def test_folders_tuners_and_adapters_can_be_added(tuners, tmp_path):
    """All three give the same answers; what is added is a copy, so training on does not reach it."""
    tuner = copy.deepcopy(tuners["mood"])
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    model.add("folder", tuner.save(tmp_path)).add("tuner", tuner).add("adapter", tuner.adapter)
    said = tuner.predict(TEXTS)
    tuner.fit(tiny.rows(8, seed=8), config=TrainConfig(epochs=3, learning_rate=5e-2, progress="off"))
    for name in model.names:
        assert model.predict(TEXTS, adapters=name) == said


def test_a_full_fine_tuning_is_no_resident(tmp_path):
    """A whole model is refused as an adapter, living or from its folder, with the way to load it."""
    tuner = Tuner(tiny.backbone("bert"), method="full", tokenizer=tiny.tokenizer("bert")).fit(
        tiny.rows(8), config=CONFIG
    )
    model = AdaptedModel(tiny.backbone("bert"))
    for living in (tuner, tuner.save(tmp_path)):
        with pytest.raises(AdapterError, match="full fine-tuning"):
            model.add("whole", living)
    assert model.names == ()


def test_where_the_tokenizer_comes_from(tmp_path, tuners):
    """A Tuner or the backbone's folder brings one; without either, predict says how to pass one."""
    adapter = tuners["mood"].adapter
    assert AdaptedModel(tiny.folder("bert", tmp_path)).add("mood", adapter).use("mood").predict(TEXTS)
    assert AdaptedModel(tiny.backbone("bert")).add("mood", tuners["mood"]).use("mood").predict(TEXTS)
    bare = AdaptedModel(tiny.backbone("bert")).add("mood", adapter).use("mood")
    with pytest.raises(BackboneError, match="tokenizer="):
        bare.predict(TEXTS)


@torch.no_grad()
def test_a_deep_copy_has_adapters_of_its_own(model):
    """Law 14: removing an adapter from the original leaves the copy's."""
    inputs = batch("bert", "single")
    twin, said = copy.deepcopy(model), model(**inputs, route="many").logits
    for name in model.names:
        model.remove(name)
    assert differ(twin(**inputs, route="many").logits, said) == 0
    assert twin.names == ("mood", "topic", "many", "score", "names")
    with pytest.raises(RouteError):
        model(**inputs, route="many")


def test_gradients_flow_through_residents(model):
    """A call is an ordinary differentiable forward, through the adapters of every row; residents themselves serve."""
    inputs = batch("bert", "single")
    words = model.backbone.model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    mixed = model(inputs_embeds=words, **inputs, route=["mood", "topic", "many", "score", None])
    sum(row.sum() for row in mixed.logits if row is not None).backward()
    assert words.grad is not None and bool(words.grad[:4].abs().sum(dim=(1, 2)).all()) and not words.grad[4].any()
    layers = model._bank.find("mood").body.layers.values()
    assert not any(p.requires_grad for layer in layers for p in layer.parameters())
