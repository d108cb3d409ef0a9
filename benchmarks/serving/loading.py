"""Loading one adapter after another from disk into a live model, and what the n-th one costs.

| arm | what loads |
|---|---|
| petune | `model.add(name, folder)`: digests, shapes, finiteness and the backbone's fingerprint checked; head too |
| peft | `model.load_adapter(folder, name)`; no head, and nothing of that is checked |
| peft, low memory | the same with `low_cpu_mem_usage=True`, peft's fastest way |

A repeat loads all of them into fresh models, n by n, the arms in turn at each n. petune's own fingerprint of the
backbone, made once in a process, is there before. All files are in the page cache, in every arm.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import AutoModel, PreTrainedModel

from benchmarks.serving import making
from benchmarks.serving.claims import at_least, at_most, hold
from benchmarks.serving.routing import OTHERS, apart, routed, token_rows
from benchmarks.serving.settings import Settings
from benchmarks.serving.timing import once, rotated
from petune import AdaptedModel
from petune.model.backbone import Backbone
from petune.storage.packing import fingerprint

PEFT_OVER_PETUNE = 20.0
FLAT = 1.10
Load = Callable[[str], Any]


def run(settings: Settings) -> dict[str, Any]:
    """The curve of each arm over n, and its straight line."""
    bare = making.twin(AutoModel.from_pretrained(settings.encoder))
    with tempfile.TemporaryDirectory() as place:
        names, files = written(bare, settings.most, Path(place))
        rounds = []
        for number in range(settings.repeats + 1):
            models = fresh(bare, names[0], files)
            rounds.append(loaded(models, names[1:], number))
        differ = difference(bare, {arm: model for arm, (model, _) in models.items()}, names)
    # The first round warms up; curve[n] holds the seconds of every repeat at one n.
    curves = {arm: [list(of) for of in zip(*(one[arm] for one in rounds[1:]), strict=True)] for arm in models}
    cells = [_cell(arm, curve, settings.marks) for arm, curve in curves.items()]
    return {"cells": cells, "claims": claims(cells, settings.marks[-1]), "differences": differ}


def written(bare: PreTrainedModel, count: int, place: Path) -> tuple[list[str], dict[str, Path]]:
    """The same adapters in folders of petune's and of peft's."""
    home = Backbone.open(making.twin(bare))
    adapters = making.random_adapters(home, count, making.TARGETS["all linear"])
    making.put(adapters, AdaptedModel(home.model), place / "petune")
    making.put_in_peft(adapters, making.twin(bare), place / "peft")
    return [adapter.name for adapter in adapters], {"petune": place / "petune", "peft": place / "peft"}


def fresh(bare: PreTrainedModel, first: str, files: dict[str, Path]) -> dict[str, tuple[Any, Load]]:
    """Arm -> a live model with one adapter in it, and what loads another one into it by name."""
    ours = AdaptedModel(making.twin(bare))
    fingerprint(ours.backbone)
    ours.add(first, files["petune"] / first)
    plain, lean = (
        peft.PeftModel.from_pretrained(making.twin(bare), files["peft"] / first, adapter_name=first) for _ in range(2)
    )
    return {
        "petune": (ours, lambda name: ours.add(name, files["petune"] / name)),
        "peft": (plain, lambda name: plain.load_adapter(files["peft"] / name, name)),
        "peft, low memory": (
            lean,
            lambda name: lean.load_adapter(files["peft"] / name, name, low_cpu_mem_usage=True),
        ),
    }


def loaded(models: dict[str, tuple[Any, Load]], names: list[str], by: int) -> dict[str, list[float]]:
    """Loads every adapter into every model; seconds of each load."""
    seconds: dict[str, list[float]] = {arm: [] for arm in models}
    for name in names:
        for arm in rotated(list(models), by):
            seconds[arm].append(once(partial(models[arm][1], name)))
    return seconds


@torch.no_grad()
def difference(bare: PreTrainedModel, models: dict[str, Any], names: list[str]) -> float:
    """Largest difference between petune and each of peft's models, over rows of the first and the last adapters."""
    route = [names[0], names[1], names[-1]]
    inputs = token_rows(bare, len(route), 8)
    rows = routed(models["petune"], route, inputs).last_hidden_state
    found = [
        apart(rows, model.eval()(**inputs, adapter_names=route).last_hidden_state)
        for arm, model in models.items()
        if arm != "petune"
    ]
    return hold("petune and peft after loading", max(found), OTHERS)


def _cell(arm: str, curve: list[list[float]], marks: tuple[int, ...]) -> dict[str, Any]:
    """Milliseconds of the n-th load: its median at every n from 2 on, and the straight line through these."""
    medians = [statistics.median(seconds) * 1e3 for seconds in curve]
    order = np.arange(2, len(medians) + 2)
    slope, start = (float(value) for value in np.polyfit(order, medians, 1))
    at = {
        str(n): {"median": medians[n - 2], "min": min(curve[n - 2]) * 1e3, "max": max(curve[n - 2]) * 1e3}
        for n in marks
    }
    fitted = {"first": start + 2 * slope, "last": start + slope * float(order[-1])}
    return {"arm": arm, "repeats": len(curve[0]), "at": at, "curve": medians, "slope": slope, "line": fitted}


def claims(cells: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """peft over petune at the last mark, and how far petune's line rises."""
    by_arm = {cell["arm"]: cell for cell in cells}
    ours = by_arm["petune"]["at"][str(n)]["median"]
    line = by_arm["petune"]["line"]
    return [
        at_least(
            f"load of adapter {n}: peft over petune", PEFT_OVER_PETUNE, by_arm["peft"]["at"][str(n)]["median"] / ours
        ),
        at_least(
            f"load of adapter {n}: peft with low_cpu_mem_usage over petune",
            PEFT_OVER_PETUNE,
            by_arm["peft, low memory"]["at"][str(n)]["median"] / ours,
        ),
        at_most(
            f"load, line through 2 to {len(by_arm['petune']['curve']) + 1}: last over first",
            FLAT,
            line["last"] / line["first"],
        ),
    ]
