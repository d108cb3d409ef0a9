"""Knobs: frozen, keyword-only, checked, and answered with the nearest name when unknown."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petune.config import TrainConfig
from petune.errors import ConfigError
from petune.knobs import knobs
from petune.methods.lora import LoRA
from petune.tasks.sequence_classification import SequenceClassification


@knobs
class Kettle:
    """Something with knobs."""

    litres: float = 1.0


@knobs
class Samovar(Kettle):
    """Something with one more."""

    coal: bool = True


def test_knobs_are_frozen() -> None:
    """A configuration cannot change under a run; `replace` makes another."""
    config = TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 5  # type: ignore[misc]
    assert dataclasses.replace(config, epochs=5).epochs == 5
    assert config.epochs == 3


def test_knobs_are_given_by_name() -> None:
    """Positions mean nothing, so none are taken."""
    with pytest.raises(TypeError):
        TrainConfig("out")  # type: ignore[misc]


def test_knobs_are_inherited() -> None:
    """A leaf takes its own knobs and those of its contract, and suggests from both."""
    assert Samovar(litres=2.0, coal=False) == Samovar(coal=False, litres=2.0)
    with pytest.raises(ConfigError, match=r"Samovar has no knob 'liters'\. Did you mean 'litres'\?"):
        Samovar(liters=2.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("wrong", "right"), [("learningrate", "learning_rate"), ("epoch", "epochs"), ("batchsize", "batch_size")]
)
def test_an_unknown_knob_is_answered_with_the_near_one(wrong: str, right: str) -> None:
    """A typo is an error that names the knob that was meant."""
    with pytest.raises(ConfigError, match=f"no knob '{wrong}'.*{right}"):
        TrainConfig(**{wrong: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("gradient_accumulation_steps", -1),
        ("keep_last", 0),
        ("patience", 0),
        ("save_every", 0),
        ("learning_rate", 0.0),
        ("label_smoothing", 1.0),
        ("warmup_ratio", -0.1),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("max_grad_norm", -1.0),
    ],
)
def test_a_knob_out_of_range_is_refused(knob: str, value: float) -> None:
    """The message names the knob, the value and the range."""
    with pytest.raises(ConfigError, match=rf"{knob}={value} is out of range\. It must be"):
        TrainConfig(**{knob: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("knob", "value", "near"),
    [
        ("optimizer", "adam", "adamw"),
        ("lr_scheduler", "linaer", "linear"),
        ("mixed_precision", "fp61", "fp16"),
        ("progress", "of", "off"),
    ],
)
def test_a_choice_that_does_not_exist_is_answered_with_the_near_one(knob: str, value: str, near: str) -> None:
    """Options are checked at construction, with a suggestion."""
    with pytest.raises(ConfigError, match=f"{knob}='{value}' is not one of .*Did you mean .*'{near}'"):
        TrainConfig(**{knob: value})  # type: ignore[arg-type]


def test_checkpoints_need_a_folder(tmp_path: Path) -> None:
    """`save_every` without `output_dir` is a contradiction; with one it is fine."""
    with pytest.raises(ConfigError, match="save_every=5 was given without output_dir"):
        TrainConfig(save_every=5)
    assert TrainConfig(save_every=5, output_dir=tmp_path).save_every == 5


def test_every_knob_is_documented() -> None:
    """The docstring has a line for each knob, and for nothing that is none."""
    text = (TrainConfig.__doc__ or "").split("Args:")[1].split("Raises:")[0]
    begun = [line for line in text.splitlines() if re.match(r" {8}\S", line)]  # what goes on is indented further
    documented = [line.strip().split(":")[0] for line in begun]
    assert documented == [field.name for field in dataclasses.fields(TrainConfig)]


@pytest.mark.parametrize(
    ("kind", "knob", "value", "words"),
    [
        (TrainConfig, "epochs", "3", "does not fit. It must be a whole number"),
        (TrainConfig, "epochs", 1.5, "whole number"),
        (TrainConfig, "epochs", True, "whole number"),
        (TrainConfig, "patience", 1.5, "a whole number or None"),
        (TrainConfig, "learning_rate", math.inf, "a finite number or None"),
        (TrainConfig, "weight_decay", math.nan, "a finite number"),
        (TrainConfig, "weight_decay", None, "a finite number"),
        (TrainConfig, "keep_best", "yes", "True or False"),
        (TrainConfig, "output_dir", 3, "a string or a path or None"),
        (TrainConfig, "metrics", "f1", "a list. Pass metrics=('f1',)"),
        (TrainConfig, "class_weight", "even", "'balanced' or a mapping or None"),
        (LoRA, "rank", 2.5, "whole number"),
        (LoRA, "targets", "query", "Pass targets=('query',)"),
        (LoRA, "modules", "query", "Pass modules=('query',)"),
        (LoRA, "layers", "al", "'all' or a list"),
        (LoRA, "layers", {1, 2}, "'all' or a list"),
        (LoRA, "ranks", [1], "a mapping"),
        (SequenceClassification, "text", 3, "a string or None"),
        (SequenceClassification, "labels", "ab", "Pass labels=('ab',)"),
    ],
)
def test_a_knob_of_another_kind_is_refused(kind: Any, knob: str, value: object, words: str) -> None:
    """The annotations are checked: the message names the knob and what it takes."""
    with pytest.raises(ConfigError, match=rf"^{knob}=.*{re.escape(words)}"):
        kind(**{knob: value})


def test_knobs_are_kept_in_the_form_of_their_annotation() -> None:
    """NumPy's numbers, lists from JSON and arrays are taken, and kept as the plain values that they mean."""
    made = LoRA(rank=np.int64(3), alpha=np.float32(6), targets=["query"], layers=np.arange(2))
    assert made == LoRA(rank=3, alpha=6, targets=("query",), layers=(0, 1))
    assert type(made.rank) is int and type(made.alpha) is float
    assert TrainConfig(class_weight={0: 1.0}, metrics=[len], learning_rate=1).metrics == (len,)


def test_annotations_that_cannot_be_read_are_not_checked() -> None:
    """A class may annotate with names that only a type checker knows."""

    @knobs
    class Odd:
        """Something of an unknown kind."""

        thing: Unheard = None  # type: ignore[name-defined]  # noqa: F821

    assert Odd(thing=3).thing == 3
