"""One batch of `most` rows, served by 1, 2, 4, ... and at last as many adapters as there are rows; all are resident.

The rows take turns among the adapters, so that neighbours never share one. Flat means: the dearest of these batches
costs at most a tenth more than the cheapest.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import AutoModel

from benchmarks.serving import making
from benchmarks.serving.claims import at_most, hold
from benchmarks.serving.routing import OTHERS, apart, routed, token_rows
from benchmarks.serving.settings import Settings
from benchmarks.serving.timing import interleaved, summary
from petune.model.backbone import Backbone

FLAT = 1.10


def run(settings: Settings) -> dict[str, Any]:
    """petune and peft over the number of distinct adapters, for each length of the rows."""
    bare = making.twin(AutoModel.from_pretrained(settings.encoder))
    home = Backbone.open(making.twin(bare))
    adapters = making.random_adapters(home, settings.most, making.TARGETS["all linear"])
    petune = making.petune_model(making.twin(bare), adapters)
    peft = making.peft_model(making.twin(bare), adapters)
    names, cells = [adapter.name for adapter in adapters], []
    for length in settings.lengths:
        inputs = token_rows(bare, settings.most, length)
        with torch.no_grad():
            mixed = routed(petune, names, inputs).last_hidden_state
            theirs = peft(**inputs, adapter_names=names).last_hidden_state
            differ = hold("petune and peft", apart(mixed, theirs), OTHERS)
            arms = {}
            for count in counts(settings.most):
                route = [names[row % count] for row in range(settings.most)]
                arms[f"petune {count}"] = partial(routed, petune, route, inputs)
                arms[f"peft {count}"] = partial(peft, **inputs, adapter_names=route)
            seconds = interleaved(arms, settings.repeats, settings.at_least)
        told = {name: summary(figures) for name, figures in seconds.items()}
        cells.append({"tokens": length, "rows": settings.most, "milliseconds": told, "differences": differ})
    return {"cells": cells, "claims": claims(cells)}


def counts(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`.

    >>> counts(64)
    [1, 2, 4, 8, 16, 32, 64]
    """
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def claims(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How far from flat petune is, for each length."""
    made = []
    for cell in cells:
        medians = [arm["median"] for name, arm in cell["milliseconds"].items() if name.startswith("petune")]
        what = f"1 to {cell['rows']} distinct adapters, S = {cell['tokens']}: dearest over cheapest"
        made.append(at_most(what, FLAT, max(medians) / min(medians)))
    return made
