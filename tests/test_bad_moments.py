"""Bad backbones, calls at the wrong moment, and runs that go wrong: clear errors, and what was good before stays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from petune import AdaptedModel, TrainConfig, Tuner
from petune.errors import (
    AdapterError,
    AdapterFileError,
    BackboneError,
    ConfigError,
    MergeError,
    PetuneError,
    TrainingError,
)
from petune.training.callbacks import Callback
from tests import tiny
from tests.conformance.subjects import same, snapshot
from tests.tuners import QUIET, ROWS, TOKENIZER, fresh, refused

# -- backbone, adapter and places -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["no/such-model", "nowhere", torch.nn.Linear(2, 2)])
def test_a_backbone_that_is_none(backbone):
    """A path or id without a model, or a module that is no transformers model."""
    refused(BackboneError, "", lambda: Tuner(backbone))


def test_a_backbone_without_a_tokenizer(tmp_path):
    """It says where a tokenizer is looked for, and how to pass one."""
    tiny.backbone("bert").save_pretrained(tmp_path)
    refused(BackboneError, "No tokenizer|tokenizer=", lambda: Tuner(tmp_path))


def test_a_task_that_the_architecture_lacks():
    """transformers has no token classifier for OPT: it says so instead of failing inside."""
    tuner = Tuner(tiny.backbone("opt"), task="token-classification", tokenizer=tiny.tokenizer("opt"))
    refused(BackboneError, "no TokenClassification model|'opt'", lambda: tuner.fit(tiny.tag_rows(8)))


def test_a_backbone_with_a_scripted_module():
    """A module that cannot be hooked is named, and no earlier one keeps a hook."""

    class Unhookable(torch.nn.Linear):
        def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("register_forward_hook is not supported on ScriptModules")

    model = tiny.backbone("bert")
    model.set_submodule("encoder.layer.1.output.dense", Unhookable(64, 32))
    tuner = Tuner(model, tokenizer=TOKENIZER)
    refused(BackboneError, "layer.1.output.dense|hook|unscripted", lambda: tuner.fit(ROWS))
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_fitted_yet():
    """Whatever needs an adapter names the calls that make one."""
    tuner = fresh()
    for work in (
        lambda: tuner.predict(["a"]),
        lambda: tuner.evaluate(ROWS),
        lambda: tuner.save("nowhere"),
        lambda: tuner.merge(),
        lambda: tuner.report,
        lambda: tuner.classes_,
        lambda: tuner.merge_receipt,
        lambda: tuner.push_to_hub("owner/name", dry_run=True),
    ):
        refused(AdapterError, "yet", work)
    assert not Path("nowhere").exists()
    refused(MergeError, "Nothing is merged", tuner.unmerge)


def test_a_merge_without_a_weight_change():
    """Bottleneck and prefix say that they have nothing to merge, and go on serving."""
    for name in ("bottleneck", "prefix", "full"):
        tuner = fresh(method=name).fit(ROWS, config=TrainConfig(epochs=1, **QUIET))
        said, before = tuner.predict_proba(["a great film"]), snapshot(tuner.backbone.model)
        for work in (tuner.merge, tuner.merged_copy):
            refused(MergeError, "merge", work)
        assert same(snapshot(tuner.backbone.model), before)
        assert np.array_equal(tuner.predict_proba(["a great film"]), said)


def test_while_merged(tmp_path):
    """Fit, save, load beside it and another tuner's fit are refused; predict goes on with the merged weights."""
    tuner = fresh().fit(ROWS, config=TrainConfig(epochs=1, **QUIET))
    said = tuner.predict_proba(["a great film"])
    tuner.merge()
    assert np.allclose(tuner.predict_proba(["a great film"]), said, atol=1e-5)
    for work in (
        tuner.merge,
        tuner.merged_copy,
        lambda: tuner.fit(ROWS),
        lambda: tuner.save(tmp_path / "adapter"),
        lambda: Tuner(tuner.backbone.model, tokenizer=TOKENIZER).fit(ROWS),
        lambda: AdaptedModel(tuner.backbone.model).add("a", tuner),
    ):
        refused(MergeError, "merged|unmerge", work)
    assert not (tmp_path / "adapter").exists()
    assert np.array_equal(tuner.unmerge().predict_proba(["a great film"]), said)


def test_a_broken_full_fine_tuning_is_refused(tmp_path):
    """Facts that are no JSON, of a newer schema or incomplete, and weights that are torn or changed: each is said."""
    folder = fresh(method="full").fit(ROWS, config=TrainConfig(epochs=1, **QUIET)).save(tmp_path)
    facts, weights = folder / "petune.json", folder / "model.safetensors"
    text, data = facts.read_text(), weights.read_bytes()
    flipped = bytearray(data)
    flipped[-5] ^= 0xFF
    for path, content, words in (
        (facts, text[:50], "petune.json"),
        (facts, "{}", "petune.json|no key"),
        (facts, text.replace('"schema": 2', '"schema": 99'), "schema 99"),
        (weights, data[: len(data) // 2], "model.safetensors|sha256"),
        (weights, bytes(flipped), "model.safetensors|sha256"),
    ):
        before = path.read_bytes()
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        refused(AdapterFileError, words, lambda: Tuner.load(folder))
        path.write_bytes(before)
    assert Tuner.load(folder, check=True).predict(["a great film"])


@pytest.mark.parametrize("repo", ["", "a/b/c"])
def test_a_repository_id_that_is_none(fitted, repo):
    """Refused before anything is written or sent."""
    refused(ConfigError, "repository id", lambda: fitted.push_to_hub(repo, dry_run=True))


# -- a loss that is not finite ----------------------------------------------------------------------------------------


class Poison(Callback):
    """Puts a NaN into a trained weight after a step."""

    def __init__(self, tuner: Tuner, step: int) -> None:
        self.tuner, self.step = tuner, step

    def on_step(self, row):
        if row["step"] == self.step:
            with torch.no_grad():
                self.tuner._bank.residents["default"].shell.head()["classifier.bias"].fill_(math.nan)


@pytest.mark.parametrize("recipe", ["lora", "adalora", "prefix"])
def test_a_nan_loss_keeps_the_last_good_adapter(recipe, tmp_path):
    """The error names step and rate; the adapter from before is kept, finite, saveable and usable."""
    tuner = fresh(method=recipe)
    config = TrainConfig(epochs=4, learning_rate=1e-3, **QUIET)
    error = refused(
        TrainingError,
        "step 3 of 4|learning rate|step 2",
        lambda: tuner.fit(ROWS[:8], config=config, callbacks=[Poison(tuner, 3)]),
    )
    assert "nan" in str(error).lower() or "finite" in str(error)
    tensors = [t for named in tuner.adapter.tensors().values() for t in named.values()]
    assert all(torch.isfinite(t).all() for t in (*tensors, *tuner.adapter.head().values()))
    said = tuner.predict_proba(["a great film"])
    assert np.isfinite(said).all()
    loaded = Tuner.load(tuner.save(tmp_path), backbone=tiny.backbone("bert"))
    assert np.array_equal(loaded.predict_proba(["a great film"]), said)


def test_a_rate_that_explodes(tmp_path):
    """A huge learning rate ends in a clear error; kept is the last adapter with a finite loss, which can be saved."""
    tuner = fresh()
    config = TrainConfig(epochs=30, learning_rate=1e30, max_grad_norm=0.0, output_dir=tmp_path / "run", **QUIET)
    refused(TrainingError, "step|learning rate|Lower the learning rate", lambda: tuner.fit(ROWS, config=config))
    assert all(torch.isfinite(t).all() for named in tuner.adapter.tensors().values() for t in named.values())
    assert np.isfinite(tuner.predict_proba(["a great film"])).all()
    loaded = Tuner.load(tuner.save(tmp_path / "adapter"), tuner.backbone.model)
    assert np.isfinite(loaded.predict_proba(["a great film"])).all()


def test_a_nan_adapter_is_never_saved(fitted, tmp_path):
    """A poisoned weight is refused by save, and no folder is left that looks like an adapter."""
    tuner = fresh().fit(ROWS, config=TrainConfig(epochs=1, **QUIET))
    with torch.no_grad():
        next(iter(tuner.adapter.head().values())).fill_(math.nan)
    refused(PetuneError, "finite", lambda: tuner.save(tmp_path / "adapter"))
    assert not list(tmp_path.rglob("adapter_model.safetensors"))


class Cut(BaseException):
    """A user's interruption."""


class CutAt(Callback):
    """Raises after the first step."""

    def on_step(self, row):
        raise Cut


@pytest.mark.parametrize("recipe", ["lora", "full"])
def test_an_interrupted_fit_leaves_the_old_adapter(recipe):
    """An exception from inside a run leaves the adapter of the fit before, with its bits."""
    tuner = fresh(method=recipe).fit(ROWS, config=TrainConfig(epochs=1, **QUIET))
    said, before = tuner.predict_proba(["a great film"]), snapshot(tuner.backbone.model)
    with pytest.raises(Cut):
        tuner.fit(ROWS, config=TrainConfig(epochs=1, seed=3, **QUIET), callbacks=[CutAt()])
    assert np.array_equal(tuner.predict_proba(["a great film"]), said)
    assert same(snapshot(tuner.backbone.model), before)
    with pytest.raises(Cut):
        fresh(method=recipe).fit(ROWS, config=TrainConfig(epochs=1, **QUIET), callbacks=[CutAt()])


def test_contradictions_of_the_configuration(fitted):
    """A figure that nobody computes, resuming without a folder, checkpoints without a folder, fp16 on a CPU."""
    refused(ConfigError, "save_every|output_dir", lambda: TrainConfig(save_every=3))
    for config, words in (
        (TrainConfig(patience=2, **QUIET), "patience"),
        (TrainConfig(metric="f1", **QUIET), "metric"),
    ):
        refused(ConfigError, words, lambda config=config: fitted.fit(ROWS, config=config))
    refused(
        ConfigError, "resume='auto'|output_dir", lambda: fitted.fit(ROWS, config=TrainConfig(**QUIET), resume="auto")
    )
    if not torch.accelerator.is_available():
        half = TrainConfig(mixed_precision="fp16", **QUIET)
        refused(ConfigError, "fp16|bf16", lambda: fitted.fit(ROWS, config=half))
    assert fitted.predict(["a great film"])
