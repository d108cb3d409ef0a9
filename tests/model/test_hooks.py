"""Hooks: what cannot be hooked is refused whole, and a bank changes by one reference."""

from __future__ import annotations

import warnings

import pytest
import torch

from petune import AdaptedModel, TrainConfig, Tuner
from petune.errors import AdapterError, AdapterFileError, BackboneError, RouteError
from petune.model.bank import Bank
from petune.model.running import run
from tests import tiny
from tests.conformance.subjects import add, batch, method, open_backbone, same, snapshot, tokenizer
from tests.conformance.test_swapping import marks


def script(model: torch.nn.Module, path: str) -> None:
    """Replaces a module by its scripted form, which takes no hook."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still met
        model.set_submodule(path, torch.jit.script(model.get_submodule(path)))


class Unhookable(torch.nn.Linear):
    """Refuses hooks as a ScriptModule does."""

    def register_forward_hook(self, *args, **kwargs):
        raise RuntimeError("register_forward_hook is not supported on ScriptModules")


@pytest.mark.parametrize("recipe", ["lora", "bottleneck"])
def test_a_module_without_hooks_is_refused_and_nothing_stays(recipe):
    """A late module that cannot be hooked: the error names it, and no earlier site keeps a hook or the adapter."""
    bank = Bank(open_backbone("bert"))
    bank.backbone.model.set_submodule("encoder.layer.1.output.dense", Unhookable(64, 32).eval())
    before = marks(bank.backbone.model)
    with pytest.raises(BackboneError, match=r"encoder\.layer\.1\.(output\.dense|feed_forward).*hook"):
        add(bank, "mine", method(recipe), "single")
    assert marks(bank.backbone.model) == before
    assert not bank.residents
    assert not bank.taps


def test_a_scripted_module_is_refused():
    """TorchScript modules take no hooks: fit says so, and how to load the backbone."""
    model = tiny.backbone("distilbert")
    script(model, "transformer.layer.1.ffn.lin2")
    tuner = Tuner(model, tokenizer=tokenizer("distilbert"))
    with pytest.raises(BackboneError, match=r"lin2.*cannot be hooked.*unscripted"):
        tuner.fit(tiny.rows(8), config=TrainConfig(epochs=1, progress="off"))
    with pytest.raises(AdapterError, match="no adapter yet"):
        tuner.predict(["a"])


@torch.no_grad()
def test_a_replacement_that_fails_leaves_the_old_one():
    """Replacing a resident by one that cannot be hooked leaves the resident with its bits."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    add(bank, "mine", method("lora", targets=("query",)), "single")
    bank.backbone.model.set_submodule("encoder.layer.1.output.dense", Unhookable(64, 32).eval())
    said, before = run(bank, bank.frame("mine"), inputs).logits, marks(bank.backbone.model)
    with pytest.raises(BackboneError):
        add(bank, "mine", method("bottleneck"), "single")
    assert marks(bank.backbone.model) == before
    assert torch.equal(run(bank, bank.frame("mine"), inputs).logits, said)


@torch.no_grad()
def test_a_frame_keeps_what_it_saw():
    """Residents that are replaced or removed do not touch a call that has begun."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    add(bank, "mine", method("lora"), "single", seated=True)
    add(bank, "other", method("lora"), "single", seed=8, seated=True)
    frame = bank.frame("mine")
    said = run(bank, frame, inputs).logits
    bank.remove("mine")
    assert torch.equal(run(bank, frame, inputs).logits, said)
    with pytest.raises(RouteError, match="'other'"):
        bank.frame("othr")


@pytest.mark.parametrize("route", ["nine", ["mine", "nine"], [1, 2], [], ["mine", b"x"]])
def test_unknown_routes_are_refused_before_any_work(route):
    """Names that are not resident, and things that are no names, are errors."""
    bank = Bank(open_backbone("bert"))
    add(bank, "mine", method("lora"), "single")
    with pytest.raises(RouteError):
        bank.frame(route)


def test_a_refused_load_leaves_the_backbone_bare(tmp_path):
    """An adapter of another backbone is refused by fingerprint, and the model has no hook and no resident of it."""
    quiet = TrainConfig(epochs=1, progress="off")
    folder = Tuner(tiny.backbone("bert", seed=1), tokenizer=tokenizer("bert")).fit(tiny.rows(8), config=quiet)
    folder = folder.save(tmp_path)
    model = AdaptedModel(tiny.backbone("bert", seed=2), tokenizer=tokenizer("bert"))
    before, bits = marks(model.backbone.model), snapshot(model.backbone.model)
    with pytest.raises(AdapterFileError, match="other weights"):
        model.add("a", folder)
    assert model.names == ()
    assert marks(model.backbone.model) == before
    assert same(snapshot(model.backbone.model), bits)


def test_a_prefix_needs_an_attention_that_takes_masks():
    """Under an attention that cannot take a prefix it is refused with the setting to use."""
    bank = Bank(open_backbone("bert"))
    bank.backbone.model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(BackboneError, match="sdpa"):
        add(bank, "mine", method("prefix"), "single")
    assert bank.backbone.model.config._attn_implementation == "flex_attention"
    assert not bank.residents


@torch.no_grad()
def test_a_prefix_works_under_eager_attention():
    """The eager attention of an architecture gives the logits of sdpa, padded rows and mixed batches included."""
    inputs = batch("bert", "single")
    found = []
    for kind in ("sdpa", "eager"):
        bank = Bank(open_backbone("bert"))
        bank.backbone.model.set_attn_implementation(kind)
        add(bank, "mine", method("prefix"), "single")
        found.append(run(bank, bank.frame("mine"), inputs).logits)
        mixed = run(bank, bank.frame(["mine", None, None, "mine", None]), inputs).logits
        assert float((mixed[3] - found[-1][3]).abs().max()) <= 1e-5
        bank.remove("mine")
        assert bank.backbone.model.config._attn_implementation == kind
    assert float((found[0] - found[1]).abs().max()) <= 1e-5
