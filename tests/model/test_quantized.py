"""Quantised backbones, through bitsandbytes on the CPU: every law holds on packed weights, or the refusal says why."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, BitsAndBytesConfig

from petune import AdaptedModel, Job, TrainConfig, Tuner, fit_many
from petune.errors import AdapterFileError, BackboneError, CheckpointError, MergeError, UnknownNameError
from petune.model import quantizing
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.routing import entered
from tests import tiny
from tests.conformance.subjects import add, batch, differ, hidden, method, same, snapshot, tokenizer
from tests.language import language_model
from tests.tuners import refused

WORDS = ("4bit", "8bit")
METHODS = ("lora", "adalora", "bottleneck", "prefix")
ROWS = tiny.rows(24)
TEXTS = [row["text"] for row in tiny.rows(6, seed=3)]
QUIET: dict[str, Any] = {"progress": "off", "batch_size": 8}
CONFIG = TrainConfig(epochs=10, learning_rate=1e-2, backbone_dropout=False, **QUIET)
ONCE = TrainConfig(epochs=1, learning_rate=1e-2, **QUIET)


BERT = {"hidden_size": 64, "intermediate_size": 128}
WIDE: dict[str, dict[str, int]] = {
    "distilbert": {"dim": 64, "hidden_dim": 128},
    "gpt2": {"n_embd": 64},
    "qwen3": {**BERT, "head_dim": 32},
    "opt": {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "t5": {"d_model": 64, "d_kv": 32, "d_ff": 128},
    "bart": {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128},
}
"""Family -> widths that are multiples of 64, as those of real checkpoints."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT in it."""
    place = tmp_path_factory.mktemp("quantized")
    tiny.folder("bert", place, **BERT)
    return place


@pytest.fixture(scope="module")
def bert(place: Path) -> Path:
    """The checkpoint of a tiny BERT."""
    return place / "tiny-bert-0"


def saved(family: str, place: Path) -> Path:
    """The folder of a family, written once."""
    path = place / f"tiny-{family}-0"
    return path if path.is_dir() else tiny.folder(family, place, **WIDE.get(family, BERT))


def bank_of(folder: Path, word: str) -> Bank:
    """An empty bank on a quantised backbone."""
    backbone = Backbone.open(folder, word)
    backbone.pad_token_id = 0
    return Bank(backbone)


def probabilities(model: Any) -> np.ndarray:
    """What a tuner says of the texts."""
    return np.asarray(model.predict_proba(TEXTS))


@torch.no_grad()
def by_transformers(model: Any, tuner: Tuner) -> np.ndarray:
    """What a plain transformers model says of the texts."""
    inputs = tuner.tokenizer(TEXTS, return_tensors="pt", padding=True)
    found: Tensor = model.eval()(**inputs).logits
    return found.softmax(-1).numpy()


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_blocks_are_packed_and_nothing_else(word, family, place):
    """Each site of each family is packed; embeddings, norms, poolers and projections of embeddings are as stored."""
    backbone, plain = Backbone.open(saved(family, place), word), AutoModel.from_pretrained(saved(family, place))
    packed = dict(quantizing.packed(backbone.model))
    assert {type(m).__name__ for m in packed.values()} == {"Linear4bit" if word == "4bit" else "Linear8bitLt"}
    kept = () if family != "t5" else ("wo",)  # transformers keeps it as it is: its code looks at the weight's type
    sites = [site.path for site in backbone.sites(backbone.model, method("lora"))]
    assert {path for path in sites if not path.endswith(kept or "-")} <= packed.keys()
    assert len(packed) == len(sites) - len(kept) * 4 or family == "deberta-v2"  # which turns its positions as well
    stored = {name: p.detach() for name, p in plain.named_parameters()}
    for name, parameter in backbone.model.named_parameters():
        if name.rpartition(".")[0] not in packed:
            assert torch.equal(parameter, stored[name]), name
    for path, module in packed.items():
        near = quantizing.unpacked(module, torch.float32)
        true = stored[f"{path}.weight"]
        true = true.T if quantizing.was_transposed(module) else true
        assert 0 < float((near - true).norm() / true.norm()) < (0.15 if word == "4bit" else 0.02)
    assert quantizing.count(backbone.model) == sum(p.numel() for p in plain.parameters())


def test_rows_that_break_a_group_stay_as_they_are(tmp_path):
    """Of a 32-wide model 4 bits pack only the maps from 64 inputs, 8 bits all; where none is left, it is refused."""
    narrow = tiny.folder("bert", tmp_path)
    found = {word: [path for path, _ in quantizing.packed(Backbone.open(narrow, word).model)] for word in WORDS}
    assert found["4bit"] == [f"encoder.layer.{index}.output.dense" for index in range(2)]
    assert len(found["8bit"]) == 12
    odd = tiny.folder("bert", tmp_path / "odd", intermediate_size=48)
    refused(BackboneError, "no linear map|multiple of 64|without quantize", lambda: Backbone.open(odd, "4bit"))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_run_keeps_its_laws(word, name, bert, tmp_path):
    """The loss falls, no bit of the backbone moves, and the saved adapter answers the same on a backbone read anew."""
    tuner = Tuner(bert, method=method(name), quantize=word)
    before = snapshot(tuner.backbone.model)
    tuner.fit(ROWS, config=CONFIG)
    losses = [row["loss"] for row in tuner.report.history if "loss" in row]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:3])
    answers = probabilities(tuner)
    assert same(snapshot(tuner.backbone.model), before)
    loaded = Tuner.load(tuner.save(tmp_path / "it"), check=True)
    assert loaded.backbone.quantized == word and not loaded.notices
    assert np.array_equal(probabilities(loaded), answers)
    assert f"in {word}" in loaded.describe()


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", ("lora", "adalora", "bottleneck"))
@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(word, name, bert):
    """The last hidden state has the bits of the bare backbone's."""
    bank, inputs = bank_of(bert, word), batch("bert", "single")
    add(bank, "fresh", method(name), "single", shaken=False)
    bare = hidden(bank, inputs)
    with entered(bank.frame("fresh")):
        assert torch.equal(hidden(bank, inputs), bare)


@pytest.mark.parametrize("word", WORDS)
@torch.no_grad()
def test_routed_rows_answer_as_alone(word, bert):
    """In a batch of all methods each row has its own adapter's logits, also as the only row; A, B, A gives A's bits."""
    bank, inputs = bank_of(bert, word), batch("bert", "single")
    for seed, name in enumerate(METHODS):
        add(bank, name, method(name), "single", seated=True, seed=seed)
    model = AdaptedModel(bank.backbone.model)
    model._residents.bank = bank
    route = [*METHODS, None]
    mixed = model(route=route, **inputs).logits
    solo = {name: model(route=name, **inputs).logits for name in METHODS}
    for row, name in enumerate(METHODS):
        assert differ(mixed[row], solo[name][row]) < 1e-5
        alone = model(route=name, **{key: value[row : row + 1] for key, value in inputs.items()}).logits
        assert differ(alone[0], solo[name][row]) < 1e-5
        assert torch.equal(model(route=name, **inputs).logits, solo[name])


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("family", "name"), [("bert", "lora"), ("bert", "adalora"), ("gpt2", "lora"), ("bert", "head")]
)
def test_merging_unpacks_and_unmerging_packs(word, family, name, place, tmp_path):
    """A merged model is plain, transformers saves and loads it; unmerge brings the very modules and bits back."""
    tuner = Tuner(saved(family, place), method=method(name), quantize=word).fit(ROWS, config=ONCE)
    before, modules = snapshot(tuner.backbone.model), [*tuner.backbone.model.modules()]
    answers = probabilities(tuner)
    copied = tuner.merged_copy()
    assert same(snapshot(tuner.backbone.model), before)
    model = tuner.merge()
    assert tuner.merge_receipt.max_logit_difference <= tuner.merge_receipt.tolerance < 1e-2
    assert abs(probabilities(tuner) - answers).max() < 1e-5
    for number, made in enumerate((copied, model)):
        assert quantizing.kind(made) is None
        made.save_pretrained(tmp_path / str(number))
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / str(number))
        assert quantizing.kind(again) is None
        assert abs(by_transformers(again, tuner) - answers).max() < 1e-5
    tuner.unmerge()
    assert [*tuner.backbone.model.modules()] == modules
    assert same(snapshot(tuner.backbone.model), before)
    assert np.array_equal(probabilities(tuner), answers)


@pytest.mark.parametrize("name", ("bottleneck", "prefix"))
def test_what_has_no_weight_change_refuses_to_merge(name, bert):
    """The refusal comes before anything is unpacked."""
    tuner = Tuner(bert, method=method(name), quantize="4bit").fit(ROWS, config=ONCE)
    for work in (tuner.merge, tuner.merged_copy):
        with pytest.raises(MergeError, match="no weight change"):
            work()
    assert quantizing.kind(tuner.backbone.model) == "4bit"


def test_a_merge_that_fails_packs_again(bert, monkeypatch):
    """An error halfway leaves the quantised modules in their places."""
    tuner = Tuner(bert, method=method("lora"), quantize="4bit").fit(ROWS, config=ONCE)
    modules = [*tuner.backbone.model.modules()]
    last = [*tuner.adapter.body.layers.values()][-1]
    monkeypatch.setattr(last, "delta", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tuner.merge()
    assert [*tuner.backbone.model.modules()] == modules


@pytest.mark.parametrize("word", WORDS)
def test_an_adapter_goes_between_precisions_of_one_checkpoint(word, bert, place, tmp_path):
    """Quantised to plain and back it is accepted with a notice; another checkpoint is refused in either form."""
    small, full = Tuner(bert, quantize=word), Tuner(bert)
    for tuner, name in ((small, "small"), (full, "full")):
        tuner.fit(ROWS, config=ONCE).save(tmp_path / name)
    plain, packed = AdaptedModel(bert), AdaptedModel(bert, quantize=word)
    plain.add("a", tmp_path / "small").add("b", small).add("c", tmp_path / "full")
    packed.add("a", tmp_path / "small").add("b", full).add("c", tmp_path / "full")
    kind = f"{word} (from float32)"
    said = {name: plain._bank.find(name).facts["notices"] for name in plain.names}
    assert said["a"] == said["b"] == [f"The backbone is float32; the adapter was trained on it in {kind}."]
    assert not said["c"] and not packed._bank.find("a").facts["notices"]
    assert packed._bank.find("c").facts["notices"] == [
        f"The backbone is {kind}; the adapter was trained on it in float32."
    ]
    assert packed.predict(TEXTS, adapters="a") == small.predict(TEXTS)
    other = tiny.folder("bert", place, seed=7, **BERT)
    for quantize in (None, word):
        with pytest.raises(AdapterFileError, match="other weights"):
            AdaptedModel(other, quantize=quantize).add("a", tmp_path / "small")


@pytest.mark.parametrize("word", WORDS)
def test_what_transformers_quantised_is_taken(word, bert, tmp_path):
    """A model object, and a folder that holds packed weights: both train, and the adapter knows them again."""
    settings = BitsAndBytesConfig(
        load_in_4bit=word == "4bit",
        load_in_8bit=word == "8bit",
        bnb_4bit_quant_type="nf4",
        llm_int8_skip_modules=["pooler"],
    )
    given: Any = AutoModel.from_pretrained(bert, quantization_config=settings)
    with torch.no_grad():  # where the processor can, bitsandbytes packs the weights anew here
        given(**batch("bert", "single"))
    tuner = Tuner(given, tokenizer=tokenizer("bert"), quantize=word)
    before = snapshot(tuner.backbone.model)
    answers = probabilities(tuner.fit(ROWS, config=ONCE))
    assert same(snapshot(tuner.backbone.model), before)
    loaded = Tuner.load(tuner.save(tmp_path / "a"), given, check=True)
    assert np.array_equal(probabilities(loaded), answers)
    given.save_pretrained(tmp_path / "packed")
    tuner.tokenizer.save_pretrained(tmp_path / "packed")
    stored = Tuner(tmp_path / "packed", quantize=word).fit(ROWS, config=ONCE)
    again = Tuner.load(stored.save(tmp_path / "b"), check=True)
    assert again.backbone.quantized == word and not again.notices
    wrong = "8bit" if word == "4bit" else "4bit"
    refused(BackboneError, "stored quantised|before it was", lambda: Tuner(tmp_path / "packed", quantize=wrong))
    refused(BackboneError, f"loaded already|in {wrong}|folder or id", lambda: Tuner(given, quantize=wrong))


def test_an_adapter_trained_on_one_object_fits_a_folder_read_the_same_way(bert, tmp_path):
    """Trained on a folder, served on the model that transformers quantised from it: known by its files and answers."""
    Tuner(bert, quantize="8bit").fit(ROWS, config=ONCE).save(tmp_path / "it")
    settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["pooler"])
    given: Any = AutoModel.from_pretrained(bert, quantization_config=settings)
    assert not Tuner.load(tmp_path / "it", given).notices
    with torch.no_grad():
        given.embeddings.word_embeddings.weight.normal_()
    with pytest.raises(AdapterFileError, match="other weights"):
        Tuner.load(tmp_path / "it", given)


@pytest.mark.parametrize("word", WORDS)
def test_a_head_inside_of_the_backbone_is_never_packed(word, tmp_path):
    """The pooler that a masked language model's checkpoint lacks is the adapter's, in floating point."""
    tuner = Tuner(tiny.mlm_folder("bert", tmp_path, **BERT), quantize=word).fit(ROWS, config=ONCE)
    assert {"bert.pooler.dense.weight", "classifier.weight"} <= tuner.adapter.head().keys()
    answers = probabilities(tuner)
    assert np.array_equal(probabilities(Tuner.load(tuner.save(tmp_path / "it"), check=True)), answers)
    assert abs(by_transformers(tuner.merged_copy(), tuner) - answers).max() < 1e-5


def test_an_unknown_architecture_skips_its_fresh_parts(bert, monkeypatch, tmp_path):
    """Without an entry in the table everything linear is packed, but for what the checkpoint lacks."""
    folder = tiny.mlm_folder("bert", tmp_path, **BERT)
    for module in ("quantizing", "sites", "backbone"):
        monkeypatch.setattr(f"petune.model.{module}.FAMILIES", {})
    packed = dict(quantizing.packed(Backbone.open(folder, "4bit").model))
    assert "encoder.layer.0.output.dense" in packed and "pooler.dense" not in packed
    assert "pooler.dense" in dict(quantizing.packed(Backbone.open(bert, "4bit").model))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(("family", "task"), [("llama", "causal-lm"), ("gpt2", "causal-lm"), ("t5", "seq2seq-lm")])
def test_language_models_write(word, family, task, tmp_path):
    """The lm_head, tied or not, stays as stored; texts are the same after loading, and after merging."""
    for part in (language_model(family, **WIDE.get(family, BERT)), tiny.tokenizer(family)):
        part.save_pretrained(tmp_path / "home")
    columns = ("prompt", "completion") if task == "causal-lm" else ("source", "target")
    rows = [dict(zip(columns, (row["text"], row["label"]), strict=True)) for row in tiny.rows(16)]
    tuner = Tuner(tmp_path / "home", task=task, method=method("lora"), quantize=word).fit(rows, config=ONCE)
    texts = tuner.generate(TEXTS, max_new_tokens=6)
    assert Tuner.load(tuner.save(tmp_path / "it")).generate(TEXTS, max_new_tokens=6) == texts
    assert isinstance(tuner.adapter.shell.model.lm_head, nn.Linear)
    assert quantizing.kind(tuner.adapter.shell.model.lm_head) is None
    tuner.merge()
    assert tuner.generate(TEXTS, max_new_tokens=6) == texts
    tuner.unmerge()
    assert tuner.generate(TEXTS, max_new_tokens=6) == texts


@pytest.mark.parametrize("word", WORDS)
def test_checkpointing_and_half_precision_leave_the_bits(word, bert):
    """Gradient checkpointing gives the same losses; a run in bfloat16 writes into no bias of the backbone."""
    tuner = Tuner(bert, method=method("lora"), quantize=word)
    before, losses = snapshot(tuner.backbone.model), []
    for knobs in ({}, {"gradient_checkpointing": True}, {"mixed_precision": "bf16"}):
        tuner.fit(ROWS, config=TrainConfig(epochs=1, backbone_dropout=False, **QUIET, **knobs))
        losses.append([row["loss"] for row in tuner.report.history if "loss" in row])
        assert same(snapshot(tuner.backbone.model), before)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0] == pytest.approx(losses[2], abs=2e-2)


@pytest.mark.parametrize("word", WORDS)
def test_a_deep_copy_has_weights_of_its_own(word, bert):
    """The copy answers with the same bits, shares no packed weight, and merges on its own."""
    tuner = Tuner(bert, method=method("lora"), quantize=word).fit(ROWS, config=ONCE)
    answers, before = probabilities(tuner), snapshot(tuner.backbone.model)
    other = copy.deepcopy(tuner)
    assert np.array_equal(probabilities(other), answers)
    here, there = ({p.data_ptr() for p in it.backbone.model.parameters()} for it in (tuner, other))
    assert here.isdisjoint(there)
    other.merge()
    assert quantizing.kind(other.backbone.model) is None
    assert same(snapshot(tuner.backbone.model), before) and np.array_equal(probabilities(tuner), answers)


def test_jobs_share_a_quantised_backbone(tmp_path):
    """Joint training learns what each fit alone does; a plain and a quantised backbone are not one."""
    bert, knobs = tiny.folder("bert", tmp_path, dropout=0.0, **BERT), {"config": ONCE}
    alone = Tuner(bert, method=method("lora"), quantize="4bit").fit(ROWS, **knobs)
    one, two = (Tuner(bert, method=method(name), name=name, quantize="4bit") for name in ("lora", "bottleneck"))
    fit_many([Job(one, ROWS, **knobs), Job(two, ROWS, **knobs)])
    assert abs(probabilities(one) - probabilities(alone)).max() < 1e-4
    with pytest.raises(BackboneError, match="quantisation"):
        fit_many([Job(one, ROWS, **knobs), Job(Tuner(bert), ROWS, **knobs)])


def test_a_run_is_resumed_in_its_own_precision(bert, tmp_path):
    """A checkpoint of a 4-bit run is none of a full-precision one."""
    config = TrainConfig(epochs=1, save_every=1, output_dir=str(tmp_path), **QUIET)
    Tuner(bert, quantize="4bit").fit(ROWS, config=config)
    with pytest.raises(CheckpointError, match="backbone"):
        Tuner(bert).fit(ROWS, config=config, resume="auto")


@pytest.mark.parametrize("how", ("full", peft.LoraConfig(r=2, target_modules=["query"])), ids=("full", "peft"))
def test_methods_that_change_modules_are_refused(how, bert, tmp_path):
    """Full fine-tuning and peft's methods say what to do instead, also when they come from a file."""
    refused(BackboneError, "4bit|without quantize", lambda: Tuner(bert, method=how, quantize="4bit"))
    if how == "full":
        return
    folder = Tuner(bert, method=how).fit(ROWS, config=ONCE).save(tmp_path / "it")
    refused(BackboneError, "4bit|without quantize", lambda: AdaptedModel(bert, quantize="4bit").add("a", folder))


def test_words_and_packages_are_checked_first(bert, monkeypatch):
    """A wrong word is answered with the near one, a missing package with the extra, and a loaded model with the fix."""
    for wrong in ("4-bit", "8bits"):
        with pytest.raises(UnknownNameError, match=re.escape(f"'{wrong[0]}bit'")):
            Tuner(bert, quantize=wrong)
    refused(BackboneError, "loaded already|folder or id", lambda: Tuner(tiny.backbone("bert"), quantize="4bit"))
    refused(BackboneError, "No transformers model", lambda: AdaptedModel(bert / "nowhere", quantize="8bit"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for work in (Tuner, AdaptedModel):
        refused(BackboneError, r"bitsandbytes|pip install 'petune\[quant\]'", lambda it=work: it(bert, quantize="8bit"))


@pytest.mark.parametrize("word", WORDS)
def test_the_trunk_is_cached_in_its_own_precision(word, bert, tmp_path):
    """States on disk of the plain backbone are no states of the packed one: the losses are those without a cache."""
    losses = {}
    for quantize in (None, word):
        for knobs in ({"cache_trunk": False}, {"cache_trunk": True, "cache_dir": str(tmp_path)}):
            config = TrainConfig(epochs=2, learning_rate=1e-2, **QUIET, **knobs)
            tuner = Tuner(bert, method=method("lora", top=1), quantize=quantize).fit(ROWS, config=config)
            kept = losses.setdefault(quantize, [row["loss"] for row in tuner.report.history if "loss" in row])
            assert [row["loss"] for row in tuner.report.history if "loss" in row] == pytest.approx(kept, abs=1e-5)
    assert losses[None] != pytest.approx(losses[word], abs=1e-5)
