"""Versions of one adapter, whose every answer tells which one gave it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from petune import AdaptedModel
from petune.data.sources import read
from petune.lookup import find
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.storage.packing import fingerprint
from tests import tiny
from tests.conformance.subjects import batch, method, open_backbone, shake

TEXTS = [row["text"] for row in tiny.rows(5, seed=3)]
INPUTS = batch("bert", "single")
WAIT = 30.0
"""Seconds after which a thread that waits is taken for stuck."""
LOAD = 2.0
"""Seconds of load."""

VERSIONS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("lora", {"rank": 2}, 2),
    ("bottleneck", {"style": "parallel", "width": 5}, 3),
    ("lora", {"rank": 7, "targets": ("query", "ffn_output")}, 3),
    ("prefix", {"length": 3}, 2),
    ("adalora", {}, 4),
    ("bottleneck", {"style": "pfeiffer"}, 2),
    ("prefix", {"length": 6}, 4),
    ("head", {}, 3),
    ("lora", {"rank": 2}, 2),
)
"""Method, inner size and number of classes of the versions of one adapter. The last differs from the first in nothing
but its weights and labels."""


@cache
def workshop() -> Backbone:
    """Where adapters are made; models that serve have backbones of their own with the same weights."""
    made = open_backbone("bert")
    fingerprint(made)
    return made


@cache
def version(number: int) -> Adapter:
    """A version; the names of its labels tell which one."""
    recipe, knobs, classes = VERSIONS[number]
    rows = [{"text": text, "label": f"v{number} {index % classes}"} for index, text in enumerate(TEXTS)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number + 1)
        task = find("tasks", "sequence-classification")().learn(read(rows))
        adapter = Adapter.make(workshop(), "made", method(recipe, **knobs), task).settled()
        shake(adapter)
        with torch.no_grad():
            for parameter in adapter.shell.head().values():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return adapter


@cache
def probabilities(number: int) -> np.ndarray:
    """What a version says of the texts, alone on a model."""
    return np.stack(serving(live=number).predict_proba(TEXTS, adapters="live"))


def serving(**residents: int) -> AdaptedModel:
    """A model on a backbone of its own with versions under names."""
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    for name, number in residents.items():
        model.add(name, version(number))
    return model


def said_by(rows: list[Any], places: list[int]) -> int | None:
    """The version whose probabilities these rows of texts have, all of them; None: a torn answer."""
    for number in range(len(VERSIONS)):
        want = probabilities(number)[places]
        if all(len(row) == want.shape[1] for row in rows) and np.allclose(np.stack(rows), want, atol=1e-4):
            return number
    return None
