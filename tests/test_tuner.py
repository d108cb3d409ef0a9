"""The Tuner as the public API lists it: signatures, plans, starts, saving, merging."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import petune
from petune import AdaLoRA, Bottleneck, Head, LoRA, Prefix, SequenceClassification, TrainConfig, Tuner
from petune.errors import AdapterError, AdapterFileError, BackboneError, MergeError
from petune.training.report import TrainReport
from tests import kinds, tiny
from tests.tuners import CONFIG, ROWS, TEXTS, TOKENIZER, fresh


def spelt(function: Any) -> list[str]:
    """The parameters of a function as they are written, without their types: `name`, `name=default`, `*`."""
    found: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        empty = parameter.default is parameter.empty
        found.append(parameter.name if empty else f"{parameter.name}={parameter.default!r}")
    return [name for name in found if name != "self"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (
            "__init__",
            "backbone * task='sequence-classification' method='lora' name='default' tokenizer=None quantize=None",
        ),
        ("fit", "train eval_data=None config=None * resume=None continue_from=None callbacks=() processes=None"),
        ("evaluate", "data metrics=() batch_size=32 * generate=True"),
        ("predict", "texts batch_size=32"),
        ("predict_proba", "texts batch_size=32"),
        ("save", "folder"),
        ("load", "folder backbone=None check=False"),
        ("plan", "data=None config=None * timed=True"),
        ("describe", ""),
        ("push_to_hub", "repo_id * private=True dry_run=False token=None"),
        ("merge", ""),
        ("unmerge", ""),
        ("merged_copy", ""),
    ],
)
def test_the_signatures_are_those_that_were_promised(name, parameters):
    """Later work builds on these names, their order and their defaults."""
    assert spelt(getattr(Tuner, name)) == parameters.split()


def test_the_door_names_what_users_need():
    """Everything that `petune` exports is there, and documented."""
    for name in petune.__all__:
        assert getattr(petune, name) is not None
        assert name == "__version__" or inspect.getdoc(getattr(petune, name))


def test_fit_chains_and_reports():
    """`fit` gives the tuner back; the report tells what was chosen, held out and learnt."""
    tuner = fresh()
    assert tuner.fit(ROWS, eval_data=0.25, config=CONFIG) is tuner
    assert isinstance(tuner.report, TrainReport)
    assert tuner.report.steps == 1
    assert any("Held out 2 of 8 rows" in notice for notice in tuner.report.notices)
    assert any("text column: 'text'" in notice for notice in tuner.report.notices)
    again = tuner.predict_proba(TEXTS)
    assert np.array_equal(tuner.fit(ROWS, eval_data=0.25, config=CONFIG).predict_proba(TEXTS), again)


@pytest.mark.parametrize(
    "method", [LoRA(rank=3, top=1), AdaLoRA(rank=2, init_rank=3), Bottleneck(width=5), Prefix(length=3), Head(), "full"]
)
@pytest.mark.parametrize("source", ["object", "mlm"])
def test_the_plan_counts_what_a_fit_trains(method, source, tmp_path):
    """Sites, trainable parameters, head and steps of the plan are those of the fit; planning changes nothing."""
    backbone = tiny.backbone("bert") if source == "object" else tiny.mlm_folder("bert", tmp_path)
    tuner = Tuner(backbone, method=method, tokenizer=TOKENIZER)
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    plan = tuner.plan(ROWS, CONFIG)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(module._forward_hooks for module in tuner.backbone.model.modules())
    tuner.fit(ROWS, config=CONFIG)
    assert plan.trainable_parameters == tuner.report.trainable_parameters
    assert plan.sites == tuple(tuner.adapter.body.layers)
    assert plan.head_parameters == sum(tensor.numel() for tensor in tuner.adapter.head().values())
    assert (plan.rows, plan.steps) == (8, tuner.report.steps)
    assert 0 < plan.trainable_share <= 1
    assert plan.peak_memory_megabytes > 0
    assert f"{plan.trainable_parameters:,} trainable" in str(plan)


def test_a_plan_without_data_and_beside_an_adapter():
    """A plan needs no rows, and a fitted adapter keeps its answers."""
    tuner = fresh().fit(ROWS, config=CONFIG)
    said = tuner.predict_proba(TEXTS)
    assert tuner.plan().steps == 0
    assert tuner.plan(ROWS).trainable_parameters == tuner.report.trainable_parameters
    assert np.array_equal(tuner.predict_proba(TEXTS), said)


def test_a_method_of_peft_is_planned_before_its_fit():
    """The plan counts what the fit trains; once the backbone holds modules of peft, or a merge, the tuner says so."""
    method = peft.LoraConfig(r=2, target_modules=["query"])
    tuner = Tuner(tiny.backbone("bert"), method=method, tokenizer=TOKENIZER)
    plan = tuner.plan(ROWS, CONFIG)
    said = tuner.fit(ROWS, config=CONFIG).predict_proba(TEXTS)
    assert plan.trainable_parameters == tuner.report.trainable_parameters
    with pytest.raises(AdapterError, match=r"no plan while 'default'.*peft.*Call plan before fit"):
        tuner.plan()
    assert np.array_equal(tuner.predict_proba(TEXTS), said)
    merged = fresh().fit(ROWS, config=CONFIG)
    merged.merge()
    with pytest.raises(MergeError, match=r"cannot make a plan.*unmerge"):
        merged.plan()


def test_plan_and_report_mean_the_same_memory():
    """Both count every weight, the frozen ones too; the plan grows with rows and, faster than they do, with tokens."""
    tuner = fresh(task=SequenceClassification(max_length=16)).fit(ROWS, config=CONFIG)
    weights = sum(p.numel() * p.element_size() for p in tuner.backbone.model.parameters()) / 2**20
    assert tuner.report.peak_memory_megabytes > weights
    assert "peak memory" in str(tuner.report) and "peak memory" in str(tuner.plan())

    def added(tokens: int, rows: int) -> float:
        longer = fresh(task=SequenceClassification(max_length=tokens))
        least = longer.plan(config=TrainConfig(batch_size=1)).peak_memory_megabytes
        return longer.plan(config=TrainConfig(batch_size=1 + rows)).peak_memory_megabytes - least

    assert weights < fresh().plan().peak_memory_megabytes
    assert added(16, 8) == pytest.approx(2 * added(16, 4))
    assert 2 * added(16, 4) < added(32, 4) < 4 * added(16, 4)
    assert fresh().plan().tokens_per_row == 68  # all positions of the tiny backbone


def test_describe_says_what_there_is():
    """Before and after a fit."""
    tuner = fresh(name="mood")
    assert "nothing fitted yet" in tuner.describe()
    text = tuner.fit(ROWS, config=CONFIG).describe()
    for word in ("bert", "lora", "sequence-classification", "'mood'", "bad, good"):
        assert word in text
    assert text in repr(tuner)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("answers", "none"), ("choices", "none"), ("likeness", "none"), ("regression", "none (regression)")],
)
def test_describe_speaks_of_regression_only_where_it_is(kind, said):
    """A task may have no labels for other reasons than that its answers are numbers."""
    known = kinds.KINDS[kind]
    family = known.families[0]
    tuner = Tuner(tiny.backbone(family), task=known.task(), tokenizer=known.reads(family))
    assert tuner.fit(known.rows(8), config=CONFIG).describe().endswith(f"labels: {said}")


def test_nothing_touches_the_disk_before_save(tmp_path, monkeypatch):
    """Without an output folder a fit writes no file."""
    monkeypatch.chdir(tmp_path)
    tuner = fresh().fit(ROWS, eval_data=0.25, config=CONFIG)
    tuner.predict(TEXTS)
    assert not list(tmp_path.iterdir())
    assert tuner.save(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert {"adapter_model.safetensors", "petune.json", "adapter_config.json", "README.md", "history.jsonl"} <= names


def test_load_finds_the_recorded_backbone(tmp_path):
    """None uses the recorded path; a model object has none, and an error says to pass it."""
    source = tiny.folder("bert", tmp_path)
    tuner = Tuner(source).fit(ROWS, config=CONFIG)
    loaded = Tuner.load(tuner.save(tmp_path / "a"), check=True)
    assert np.array_equal(loaded.predict_proba(TEXTS), tuner.predict_proba(TEXTS))
    assert loaded.name == "default"
    folder = fresh().fit(ROWS, config=CONFIG).save(tmp_path / "b")
    with pytest.raises(BackboneError, match="backbone="):
        Tuner.load(folder)
    source.rename(tmp_path / "moved")
    with pytest.raises(BackboneError, match="backbone="):
        Tuner.load(tmp_path / "a")
    assert Tuner.load(tmp_path / "a", backbone=tmp_path / "moved").classes_ == ("bad", "good")


def test_a_loaded_adapter_can_be_saved_again_and_trained_on(tmp_path):
    """Loading is not the end: save, fit and continue_from go on from there."""
    tuner = fresh(name="mood").fit(ROWS, config=CONFIG)
    loaded = Tuner.load(tuner.save(tmp_path / "a"), backbone=tiny.backbone("bert"))
    again = Tuner.load(loaded.save(tmp_path / "b"), backbone=tiny.backbone("bert"))
    assert np.array_equal(again.predict_proba(TEXTS), tuner.predict_proba(TEXTS))
    assert again.name == "mood"
    assert np.array_equal(loaded.fit(ROWS, config=CONFIG).predict_proba(TEXTS), tuner.predict_proba(TEXTS))


@pytest.mark.parametrize("method", ["lora", "adalora", "prefix", "bottleneck", "head", "full"])
def test_continue_from_starts_with_those_weights(method, tmp_path):
    """A tiny step from a saved adapter, or from a tuner, answers nearly as it; a fresh adapter does not."""
    first = fresh(method=method).fit(tiny.rows(16), config=TrainConfig(epochs=4, learning_rate=2e-2, progress="off"))
    still = TrainConfig(epochs=1, learning_rate=1e-9, progress="off")
    folder = first.save(tmp_path)
    for start in (folder, str(folder), first):
        second = fresh(method=method).fit(ROWS, config=still, continue_from=start)
        assert np.allclose(second.predict_proba(TEXTS), first.predict_proba(TEXTS), atol=1e-5)
    assert not np.allclose(
        fresh(method=method).fit(ROWS, config=still).predict_proba(TEXTS), first.predict_proba(TEXTS), atol=1e-3
    )
    said = first.predict_proba(TEXTS)
    first.fit(ROWS, config=still, continue_from=first)
    assert np.allclose(first.predict_proba(TEXTS), said, atol=1e-5)


def test_continue_from_says_whose_method_it_uses():
    """The start's method wins over the tuner's, and it is said."""
    first = fresh(method=LoRA(rank=2)).fit(ROWS, config=CONFIG)
    second = fresh(method="prefix").fit(ROWS, config=CONFIG, continue_from=first)
    assert second.adapter.method == LoRA(rank=2)
    assert any("its method is used, lora" in notice for notice in second.report.notices)


def test_continue_from_another_backbone_is_refused():
    """A start only means something on the weights that it was trained on; a tuner without one names fit."""
    other = Tuner(tiny.backbone("bert", seed=9), tokenizer=TOKENIZER).fit(ROWS, config=CONFIG)
    with pytest.raises(AdapterFileError, match="other weights"):
        fresh().fit(ROWS, config=CONFIG, continue_from=other)
    with pytest.raises(AdapterError, match="no adapter yet"):
        fresh().fit(ROWS, config=CONFIG, continue_from=fresh())


def test_a_dry_run_lists_files_and_card():
    """`push_to_hub(dry_run=True)` needs no network, and leaves no folder."""
    listed = fresh().fit(ROWS, config=CONFIG).push_to_hub("owner/mood", dry_run=True)
    assert listed["repo_id"] == "owner/mood"
    assert listed["files"]["adapter_model.safetensors"] > 1000
    assert "lora" in listed["card"].lower()


def test_merge_gives_a_transformers_model(tmp_path):
    """In place, with labels set and a receipt; a copy leaves the tuner as it is."""
    tuner = fresh().fit(ROWS, config=TrainConfig(epochs=2, learning_rate=2e-2, progress="off"))
    said = tuner.predict_proba(TEXTS)
    twin = tuner.merged_copy()
    assert tuner.merge_receipt.max_logit_difference <= 1e-4
    model = tuner.merge()
    assert model.config.id2label == twin.config.id2label == {0: "bad", 1: "good"}
    assert "largest logit difference" in str(tuner.merge_receipt)
    for index, made in enumerate((model, twin)):
        made.save_pretrained(tmp_path / str(index))
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / str(index)).eval()
        with torch.no_grad():
            logits = loaded(**TOKENIZER(TEXTS, return_tensors="pt", padding=True)).logits
        assert np.allclose(logits.softmax(-1).numpy(), said, atol=1e-5)
    assert tuner.unmerge() is tuner
    assert np.array_equal(tuner.predict_proba(TEXTS), said)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_options_of_a_run_work_together(precision, tmp_path):
    """Accumulation, smoothing, class weights, early stopping, checkpointing, mixed precision, further metrics."""
    config = TrainConfig(
        output_dir=tmp_path, epochs=3, batch_size=4, gradient_accumulation_steps=2, label_smoothing=0.1,
        class_weight="balanced", patience=1, metric="loss", metrics=("matthews-correlation",), save_every=1,
        gradient_checkpointing=True, mixed_precision=precision, lr_scheduler="cosine", progress="off",
    )  # fmt: skip
    tuner = fresh().fit(tiny.rows(16), eval_data=0.25, config=config)
    assert tuner.report.metric == "loss"
    assert "matthews_correlation" in tuner.report.best
    assert (tmp_path / "history.jsonl").is_file()
    assert list(tmp_path.glob("checkpoint-*"))


def test_evaluating_and_predicting_change_no_state():
    """Between two evaluations every tensor, mode and random number is the same."""
    tuner = fresh().fit(ROWS, config=CONFIG)
    twin = copy.deepcopy(tuner.backbone.model.state_dict())
    drawn = torch.get_rng_state()
    assert dict(tuner.evaluate(ROWS)) == dict(tuner.evaluate(ROWS))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, twin[name]) for name, tensor in tuner.backbone.model.state_dict().items())


def test_each_notice_is_said_once(caplog, tmp_path):
    """The same sentence comes once in the life of a tuner, another count is another sentence; a new tuner says it."""
    folder = fresh(task=SequenceClassification(max_length=4)).fit(ROWS, config=CONFIG).save(tmp_path)
    tuner, said = Tuner.load(folder, backbone=tiny.backbone("bert")), [record.message for record in caplog.records]
    for _ in range(2):
        tuner.predict(TEXTS)
        tuner.predict_proba(TEXTS)
        tuner.evaluate(ROWS)
        tuner.predict(TEXTS[:2])
    new = [record.message for record in caplog.records[len(said) :]]
    assert [" ".join(words.split()[:6]) for words in new] == [
        "the texts: 5 of 5 rows", "the data: 8 of 8 rows", "the texts: 2 of 2 rows",
    ]  # fmt: skip
    Tuner.load(folder, backbone=tiny.backbone("bert")).predict(TEXTS)
    assert caplog.records[-1].message == new[0]
