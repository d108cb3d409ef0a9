"""What cannot be merged is refused before anything changes, with what is wrong and what would be right."""

from __future__ import annotations

import math

import peft
import pytest

from petune import Bottleneck, LoRA, Prefix, TrainConfig, Tuner, merge_adapters, negate
from petune.errors import AdapterError, AdapterFileError, BackboneError, ConfigError, MergeError, UnknownNameError
from petune.methods.peft import Peft
from tests import tiny
from tests.combining.making import adapter, adapters, merged
from tests.conformance.subjects import open_backbone

CONFIG = TrainConfig(epochs=1, batch_size=8, progress="off")
SMALL = LoRA(rank=2, targets=("query",))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"how": "tie"}, UnknownNameError, "Did you mean 'ties'"),
        ({"how": "dare_lienar"}, UnknownNameError, "Did you mean 'dare_linear'"),
        ({"weights": [1.0]}, ConfigError, "1 weights were given for 2"),
        ({"weights": [1.0, math.nan]}, ConfigError, "nan"),
        ({"weights": [1.0, math.inf]}, ConfigError, "inf"),
        ({"weights": [1.0, "2"]}, ConfigError, "'2'"),
        ({"weights": [1.0, True]}, ConfigError, "True"),
        ({"weights": "12"}, ConfigError, "no list"),
        ({"weights": 0.5}, ConfigError, "no list"),
        ({"rank": 0}, ConfigError, "rank"),
        ({"rank": 2.5}, ConfigError, "rank"),
        ({"how": "cat", "rank": 4}, ConfigError, "contradicts"),
        ({"how": "svd", "density": 0.5}, ConfigError, "It belongs to magnitude_prune, ties"),
        ({"how": "ties", "density": 0.0}, ConfigError, "density"),
        ({"how": "ties", "density": 1.5}, ConfigError, "density"),
        ({"how": "ties", "majority_sign": "totl"}, ConfigError, "Did you mean 'total'"),
        ({"how": "dare_linear", "majority_sign": "total"}, ConfigError, "It belongs to ties, dare_ties"),
        ({"seed": "x"}, ConfigError, "seed"),
        ({"name": "a/b"}, ConfigError, "cannot name"),
        ({"head": "c"}, UnknownNameError, "There is no adapter 'c'"),
        ({"head": 2}, ConfigError, "0 to 1"),
        ({"head": True}, ConfigError, "True"),
        ({"weights": [1.0, -0.5]}, AdapterError, "head='a'"),
        ({"weights": [0.0, 0.0]}, AdapterError, "make no mean"),
    ],
    ids=str,
)
def test_knobs_that_cannot_be_meant(given, error, words):
    """Each says what is wrong with it, and what is near or possible."""
    with pytest.raises(error, match=words):
        merged(adapters("plain"), **given)


@pytest.mark.parametrize(
    ("given", "words"), [([], "no adapter"), ("a/folder", "no list"), ([3], "A int is no"), (3, "no list")]
)
def test_lists_that_are_none(given, words):
    """A folder alone, nothing, and things that hold no adapter."""
    with pytest.raises(ConfigError, match=words):
        merge_adapters(given)


@pytest.mark.parametrize("method", [Bottleneck(width=2), Prefix(length=2)], ids=["bottleneck", "prefix"])
def test_methods_without_a_weight_change(method):
    """They are named, and served beside the others instead."""
    home = open_backbone("bert")
    made = [adapter(home, "fine", SMALL), adapter(home, "odd", method)]
    with pytest.raises(
        MergeError, match=f"'odd' cannot be merged with others: the method {type(method).__name__} has no"
    ):
        merged(made)
    with pytest.raises(MergeError, match="AdaptedModel"):
        negate(made[1])


def test_a_full_model_and_a_method_of_peft_are_refused(tmp_path):
    """Living or from their folders; the backbone is as bare as before."""
    home = tiny.folder("bert", tmp_path)
    rows = tiny.rows(8)
    fine = Tuner(home, method=SMALL).fit(rows, config=CONFIG)
    full = Tuner(home, method="full").fit(rows, config=CONFIG)
    odd = Tuner(home, method=Peft(config=peft.IA3Config(target_modules=["key"], feedforward_modules=[]))).fit(
        rows, config=CONFIG
    )
    modules = [type(module) for module in fine.backbone.model.modules()]
    for other, words in ((full, "whole model"), (odd, "replaces modules")):
        for given in (other, other.save(tmp_path / words.replace(" ", "-"))):
            with pytest.raises(MergeError, match=words):
                merge_adapters([fine, given])
            assert [type(module) for module in fine.backbone.model.modules()] == modules
    assert merge_adapters([fine]).predict(["a fine film"])


def test_other_backbones_are_refused(tmp_path):
    """Other weights and other architectures, living or from folders, whichever comes first."""
    homes = [tiny.folder("bert", tmp_path), tiny.folder("bert", tmp_path, seed=1), tiny.folder("roberta", tmp_path)]
    tuners = [Tuner(home, method=SMALL, name=home.name).fit(tiny.rows(8), config=CONFIG) for home in homes]
    folders = [tuner.save(tmp_path / f"adapter-{tuner.name}") for tuner in tuners]
    for first, second, words in ((0, 1, "other weights"), (1, 0, "other weights"), (0, 2, "backbone, this is")):
        for one in (tuners[first], folders[first]):
            for two in (tuners[second], folders[second]):
                with pytest.raises(AdapterFileError, match=words):
                    merge_adapters([one, two])
    with pytest.raises(AdapterFileError, match="other weights") as caught:
        merge_adapters([tuners[0]], backbone=homes[1])
    assert any("tiny-bert-0" in note for note in caught.value.__notes__)


def test_a_backbone_that_is_merged_into_is_left_alone(tmp_path):
    """Merging adapters waits until the backbone is itself again."""
    tuner = Tuner(tiny.folder("bert", tmp_path), method=SMALL).fit(tiny.rows(8), config=CONFIG)
    tuner.merge()
    with pytest.raises(MergeError, match="unmerge"):
        merge_adapters([tuner, tuner])
    assert merge_adapters([tuner.unmerge(), tuner]).classes_ == tuner.classes_


def test_without_a_tokenizer_it_says_so():
    """Adapters on a bare model object came with none."""
    with pytest.raises(BackboneError, match="tokenizer"):
        merge_adapters(adapters("plain"))
