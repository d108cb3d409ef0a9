"""FSDP2 over two processes (gloo): the adapter that DDP trains, with half of the frozen bytes; nothing falls back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from petune import TrainConfig, Tuner
from petune.errors import ConfigError
from petune.model.learner import Learner
from petune.training.ranks.asking import FLAG, unheard, wanted
from petune.training.ranks.sharding import refuse_unsharded
from petune.training.trainee import Trainee
from tests import tiny
from tests.conformance import subjects
from tests.training import launches, ranks_jobs
from tests.training.launches import METHODS, OTHERS


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process, with twice the rows per forward."""
    return launches.single(tmp_path_factory)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two processes."""
    return launches.two(tmp_path_factory)


def same(first: dict[str, Any], second: dict[str, Any], rtol: float = 1e-5) -> None:
    """Losses and weights agree but for the rounding of sums."""
    np.testing.assert_allclose(first["losses"], second["losses"], rtol=rtol)
    assert first["state"].keys() == second["state"].keys() and first["tokens"] == second["tokens"]
    for name, value in second["state"].items():
        np.testing.assert_allclose(first["state"][name], value, rtol=rtol, atol=rtol / 10, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_one_process_of_2b_and_two_of_b_give_the_same_adapter(one, two, method):
    """With accumulation and a last batch that is not full, DDP and FSDP2 train what one process trains."""
    for rank in two["ranks"]:
        same(rank[method], one[method])
        assert rank[f"{method}, sharded"]["digest"] == rank[method]["digest"] == two["ranks"][0][method]["digest"]
        assert rank[f"{method}, sharded"]["losses"] == rank[method]["losses"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_backbones_and_knobs_are_sharded_alike(one, two, name):
    """Decoders, encoder-decoders, shared blocks, a head alone, checkpointing in bf16 and a kept trunk: the same run."""
    for rank in two["ranks"]:
        same(rank[f"{name}, sharded"], one[name], rtol=1e-2 if name == "deep" else 1e-5)
        assert rank[f"{name}, sharded"]["digest"] == two["ranks"][0][f"{name}, sharded"]["digest"]


def test_each_process_holds_half_of_the_frozen_bytes(two):
    """At every evaluation of a sharded run; the first entry is the rehearsal before the run, where all is whole."""
    for rank in two["ranks"]:
        for name, made in rank.items():
            if not name.endswith(", sharded") or "held" not in made:
                continue
            rehearsed, *held = made["held"]
            assert rehearsed == made["whole"] and len(held) >= 3
            assert all(abs(bytes_ - made["whole"] / 2) <= made["whole"] * 0.01 for bytes_ in held), name


def test_afterwards_the_backbone_is_what_it_was(two):
    """The same bits in the same Parameter objects, the same classes, no hook and no note left; both ranks predict."""
    for rank in two["ranks"]:
        for name, made in rank.items():
            if name.endswith(", sharded") and "bits" in made:
                assert made["bits"] and made["objects"], name
                assert made["kinds"] or name.startswith("deep"), name  # checkpointing leaves its own switch behind
                assert made["predicted"] == rank.get(name.split(",")[0], made)["predicted"]


def test_the_report_tells_what_is_kept_where(two):
    """In words: how much there is, and how much each process keeps."""
    told = [notice for notice in two["ranks"][1]["lora, sharded"]["notices"] if "fsdp2" in notice]
    assert told == [
        "The frozen weights, 0.1 MB, lie in shards (fsdp2): each of 2 processes keeps 0.1 MB between forwards."
    ]


def test_the_adapter_of_a_sharded_run_loads_in_one_process(two):
    """What the main process saved answers as both processes did."""
    from tests.training.crews import still

    loaded = Tuner.load(f"{two['place']}/adapter", still("bert"), check=True)
    proba = loaded.predict_proba([row["text"] for row in subjects.rows("single", 27)[:6]]).ravel()
    np.testing.assert_allclose(proba, two["ranks"][0]["lora, sharded"]["predicted"], atol=1e-6)


def test_an_error_in_the_middle_leaves_a_whole_backbone(two):
    """All processes leave by an error; the weights come back to the bit, and the same tuner fits again."""
    for rank in two["ranks"]:
        assert rank["broken"]["bits"] is True
        assert rank["broken"]["digest"] == two["ranks"][0]["broken"]["digest"]


def test_a_process_that_is_left_alone_says_that_the_weights_are_gone(two):
    """The error keeps its kind and has a note with what to do; torch's classes and hooks are off the modules."""
    for rank in two["ranks"]:
        (note,) = rank["lost"]["notes"]
        assert "did not come to join them" in note and "Open the backbone anew" in note
        assert rank["lost"]["kinds"]


def test_the_words_of_accelerate_launch_are_answered_or_refused(two):
    """`--use_fsdp --fsdp_version 2` shards; version 1 and offloading are refused; the environment stays as it was."""
    for rank in two["ranks"]:
        assert any("fsdp2" in notice for notice in rank["launched"]["notices"])
        assert rank["launched"]["digest"] == rank["lora"]["digest"]
        assert "FSDP in version 1" in rank["old"]["error"] and "--fsdp_version 2" in rank["old"]["error"]
        assert "FSDP_OFFLOAD_PARAMS=true" in rank["offloading"]["error"]
        assert all(rank[name]["stand"] for name in ("launched", "old", "offloading"))


def test_one_process_is_refused(monkeypatch: pytest.MonkeyPatch):
    """By the knob and by the launcher's words: there is nothing to shard over, and nothing falls back."""
    mine = ranks_jobs.tuner("lora")
    with pytest.raises(ConfigError, match=r"in one process.*torchrun"):
        mine.fit(tiny.rows(8), config=TrainConfig(sharding="fsdp2", progress="off"))
    for name, word in launches.FSDP.items():
        monkeypatch.setenv(name, word)
    with pytest.raises(ConfigError, match="in one process"):
        mine.fit(tiny.rows(8), config=TrainConfig(progress="off"))
    with unheard():
        assert wanted(TrainConfig()) is None
    assert wanted(TrainConfig()) == "fsdp2"


def trainee(method: str, **config: Any) -> Trainee:
    """A learner that is asked to be sharded."""
    made = subjects.subject(launches_case(method))
    learner = Learner(made.bank, made.adapter)
    return Trainee(learner, made.adapter.task, None, [], None, TrainConfig(sharding="fsdp2", **config))


def launches_case(method: str) -> Any:
    """A case of the laws: BERT, two classes."""
    from tests.covering import Case

    return Case(method, "bert", "single")


def test_what_cannot_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Full fine-tuning, compiled blocks and packed weights, each with its reason and what to do."""
    pair: Any = SimpleNamespace(num_processes=2)
    with pytest.raises(ConfigError, match="'full' trains every weight"):
        refuse_unsharded([trainee("full")], pair)
    with pytest.raises(ConfigError, match=r"blocks are compiled.*Leave compile"):
        refuse_unsharded([trainee("lora", compile=True)], pair)
    plain = trainee("lora")
    refuse_unsharded([plain], pair)
    refuse_unsharded([replace(plain, config=TrainConfig())], SimpleNamespace(num_processes=1))  # type: ignore[arg-type]
    backbone = plain.learner.adapter.shell.backbone
    backbone.quantized = "4bit"
    with pytest.raises(ConfigError, match=r"quantised \(4bit\).*Leave sharding out"):
        refuse_unsharded([plain], pair)
    backbone.quantized = None
    backbone.compile(backend="eager")
    with pytest.raises(ConfigError, match="blocks are compiled"):
        refuse_unsharded([plain], pair)
    monkeypatch.setenv(FLAG, "false")
    assert wanted(TrainConfig()) is None


def test_a_word_that_is_no_sharding_is_refused():
    """The knob knows one word."""
    with pytest.raises(ConfigError, match="sharding"):
        TrainConfig(sharding="fsdp")  # type: ignore[arg-type]
