"""What a language model's checkpoint holds around its base model is the backbone's: shared, frozen, not saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from petune.errors import BackboneError
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.learner import Learner
from petune.model.running import run
from petune.model.shell import Shell
from tests import tiny
from tests.conformance.subjects import add, batch, differ, method
from tests.language import PAIRED, WRITERS, bank, language_model, padded, prompts, task

LMS = [*((family, False) for family in WRITERS), ("llama", True), ("gpt2", True), ("t5", True)]
"""Family, and whether the head's weights are its own although the configuration may tie them."""


def auto(family: str) -> str:
    """The class of the family's language model."""
    return "AutoModelForSeq2SeqLM" if family in PAIRED else "AutoModelForCausalLM"


def given(family: str) -> dict[str, torch.Tensor]:
    """A batch for either kind of model."""
    inputs = padded(language_model(family), prompts((5, 5)))
    return {**inputs, **({"decoder_input_ids": inputs["input_ids"][:, :3]} if family in PAIRED else {})}


@pytest.mark.parametrize("kind", ["folder", "object"])
@pytest.mark.parametrize(("family", "untied"), LMS)
@torch.no_grad()
def test_the_head_of_a_checkpoint_is_the_backbones(family, untied, kind, tmp_path):
    """A shell gives the language model's own logits, has no head, and draws no random number."""
    model = language_model(family, untied=untied)
    model.save_pretrained(tmp_path)
    backbone = Backbone.open(tmp_path if kind == "folder" else model)
    before = torch.get_rng_state()
    shell = Shell(backbone, auto(family), {})
    assert torch.equal(before, torch.get_rng_state())
    assert shell.head() == {}
    assert differ(shell.model(**given(family)).logits, model(**given(family)).logits) == 0
    assert not any(tensor.is_meta for tensor in (*shell.model.parameters(), *shell.model.buffers()))
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert list(shell.outputs.untied) == ([] if tied else ["lm_head.weight"])
    assert (shell.model.lm_head.weight is backbone.model.get_input_embeddings().weight) == tied
    again = Shell(backbone, auto(family), {})
    assert again.model.lm_head is shell.model.lm_head


@pytest.mark.parametrize("family", WRITERS)
def test_folder_and_object_are_one_backbone(family, tmp_path):
    """The same names and weights, whatever task is asked for: one fingerprint for a checkpoint."""
    model = language_model(family, untied=True)
    model.save_pretrained(tmp_path)
    opened, handed = Backbone.open(tmp_path), Backbone.open(model)
    assert type(opened.model) is type(handed.model)
    names = [[name for name, _ in backbone.named_tensors()] for backbone in (opened, handed)]
    assert names[0] == names[1]
    assert not any("lm_head" in name for name in names[0])
    assert Backbone.open(model).model is handed.model  # two tuners on one object share it


def test_a_classifier_on_a_language_model_reads_no_head(tmp_path, monkeypatch):
    """What a task does not need is not read: the head stays in its file."""
    model = language_model("llama", untied=True)
    model.save_pretrained(tmp_path)
    backbone = Backbone.open(tmp_path)
    Shell(backbone, "AutoModelForSequenceClassification", {"num_labels": 3})
    assert backbone.outputs == {}
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: t for name, t in weights.items() if name != "lm_head.weight"},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert list(Shell(backbone, "AutoModelForCausalLM", {}).head()) == ["lm_head.weight"]


def test_a_checkpoint_without_a_head_makes_it_the_adapters(tmp_path):
    """Missing weights are the adapter's: drawn, one set for each, in its head."""
    tiny.backbone("llama").save_pretrained(tmp_path)
    for source in (tmp_path, tiny.backbone("llama")):
        backbone = Backbone.open(source)
        heads = [Shell(backbone, "AutoModelForCausalLM", {}).head()["lm_head.weight"] for _ in range(2)]
        assert differ(heads[0], heads[1]) > 0
        assert heads[0].requires_grad
    tied = Backbone.open(tiny.backbone("gpt2"))
    assert Shell(tied, "AutoModelForCausalLM", {}).head() == {}


def test_a_checkpoint_that_holds_half_of_a_head_is_refused():
    """A bias without its weight is neither the backbone's nor a head."""
    model = tiny.backbone("bert")
    whole = Backbone.open(model)
    with pytest.raises(BackboneError, match=r"has no weight cls\.predictions"):
        Shell(whole, "AutoModelForMaskedLM", {})  # its decoder is tied, the map before it is missing


def test_a_folder_that_is_gone_is_told(tmp_path):
    """The head is read when it is first needed; then the checkpoint must still be there."""
    folder = tmp_path / "model"
    language_model("llama", untied=True).save_pretrained(folder)
    backbone = Backbone.open(folder)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(BackboneError, match="could not be read"):
        Shell(backbone, "AutoModelForCausalLM", {})


@pytest.mark.parametrize(("family", "untied"), LMS)
def test_nobody_trains_the_shared_head(family, untied):
    """It gets no gradient, its flags are put back, and it is in no adapter; in full fine-tuning it learns as a copy."""
    model = language_model(family, untied=untied)
    made = bank(model, names=("lora",), live=True)
    adapter = made.find("lora")
    learner = Learner(made, adapter)
    with learner.fitting():
        assert not adapter.shell.model.lm_head.weight.requires_grad
        learner(**given(family)).sum().backward()
    assert model.lm_head.weight.grad is None
    assert model.lm_head.weight.requires_grad
    assert adapter.head() == {}
    full = Adapter.make(made.backbone, "full", method("full"), task(family))
    own = full.shell.model.lm_head.weight
    assert own is not model.lm_head.weight
    assert differ(own, model.lm_head.weight) == 0
    assert any(own is parameter for parameter in Learner(made, full).parameters())


@pytest.mark.parametrize("family", [family for family in WRITERS if family != "marian"])  # it has no classifier
@torch.no_grad()
def test_language_models_and_classifiers_share_a_batch(family):
    """One routed call: rows of language models have logits over the vocabulary, others over their labels."""
    made = bank(language_model(family), names=("lora", "prefix"))
    add(made, "stars", method("bottleneck"), "multi")
    inputs = batch(family, "single")
    route = ["lora", "stars", "prefix", None, "stars"]
    mixed = run(made, made.frame(route), inputs).logits
    for row, name in enumerate(route):
        if name is None:
            assert mixed[row] is None
        else:
            solo = run(made, made.frame(name), inputs).logits[row]
            assert mixed[row].shape == solo.shape
            assert differ(mixed[row], solo) <= 1e-5 * max(1.0, float(solo.abs().max()) / 10), name


@pytest.mark.parametrize(("family", "untied"), LMS)
@torch.no_grad()
def test_a_deep_copy_keeps_the_ties(family, untied):
    """A copied bank has a head of its own, tied as the original is."""
    made = bank(language_model(family, untied=untied), names=("lora",))
    twin = copy.deepcopy(made)
    mine, its = (it.find("lora").shell for it in (made, twin))
    want = mine.model(**mine.inputs(given(family))).logits
    for parameter in mine.model.lm_head.parameters():
        parameter.zero_()
    assert differ(its.model(**its.inputs(given(family))).logits, want) == 0
    tied = not its.outputs.untied
    assert (its.model.lm_head.weight is twin.backbone.model.get_input_embeddings().weight) == tied


def test_an_encoder_of_t5_stays_what_it_is():
    """A T5 encoder without a decoder is its own base model."""
    from transformers import T5EncoderModel

    encoder: Any = T5EncoderModel(tiny.config("t5"))
    assert Backbone.open(encoder).model is encoder


def test_the_bare_backbone_of_t5_gives_states() -> None:
    """A T5 language model that is handed over answers as its base model where no adapter acts."""
    made = Bank(Backbone.open(language_model("t5")))
    inputs = given("t5")
    with torch.no_grad():
        assert run(made, made.frame(None), inputs).last_hidden_state.shape == (2, 3, tiny.WIDTH)
