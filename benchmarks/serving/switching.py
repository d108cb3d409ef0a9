"""Switching the adapter of the whole model, with more and more of them resident: `use(name)` beside `set_adapter`.

Neither runs the backbone. So that no cost hides in the next forward, a switch and a forward of one row is timed too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from benchmarks.serving import making
from benchmarks.serving.claims import at_least, at_most, hold
from benchmarks.serving.routing import OTHERS, apart, routed, token_rows
from benchmarks.serving.settings import Settings
from benchmarks.serving.timing import Call, interleaved, summary
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone

PEFT_OVER_PETUNE = 500.0
NO_GROWTH = 1.10
LENGTH = 8
FORWARD = ", and a forward"


class Pair:
    """Both libraries with the same adapters resident."""

    def __init__(self, bare: Any, adapters: list[Adapter]) -> None:
        self.names = [adapter.name for adapter in adapters]
        self.petune = making.petune_model(making.twin(bare), adapters)
        self.peft = making.peft_model(making.twin(bare), adapters)
        self.row = token_rows(bare, 1, LENGTH)

    def run_petune(self) -> Tensor:
        """One row through the adapter in use."""
        return routed(self.petune, self.petune.default, self.row).last_hidden_state

    def run_peft(self) -> Tensor:
        """One row through the active adapter."""
        return self.peft(**self.row).last_hidden_state

    def arms(self) -> dict[str, Call]:
        """What is timed; every call switches to the next adapter, round and round."""
        return {
            "petune": alternating(self.petune.use, self.names),
            "peft": alternating(self.peft.set_adapter, self.names),
            f"petune{FORWARD}": alternating(self.petune.use, self.names, self.run_petune),
            f"peft{FORWARD}": alternating(self.peft.set_adapter, self.names, self.run_peft),
        }

    def difference(self) -> float:
        """The largest difference after a switch to the first, and to the last adapter."""
        found = []
        for name in (self.names[0], self.names[-1]):
            self.petune.use(name)
            self.peft.set_adapter(name)
            found.append(apart(self.run_petune(), self.run_peft()))
        return hold("petune and peft after a switch", max(found), OTHERS)


def run(settings: Settings) -> dict[str, Any]:
    """Both libraries with each number of residents, all in turn."""
    bare = making.twin(AutoModel.from_pretrained(settings.encoder))
    home = Backbone.open(making.twin(bare))
    adapters = making.random_adapters(home, max(settings.marks), making.TARGETS["all linear"])
    pairs = {mark: Pair(bare, adapters[:mark]) for mark in settings.marks}
    arms = {f"{mark} {arm}": call for mark, pair in pairs.items() for arm, call in pair.arms().items()}
    with torch.no_grad():
        differences = {mark: pair.difference() for mark, pair in pairs.items()}
        seconds = interleaved(arms, settings.repeats, settings.at_least)
    cells = [
        {
            "resident": mark,
            "milliseconds": {arm: summary(seconds[f"{mark} {arm}"]) for arm in pair.arms()},
            "differences": differences[mark],
        }
        for mark, pair in pairs.items()
    ]
    return {"cells": cells, "claims": claims(cells)}


def alternating(switch: Callable[[str], Any], names: list[str], then: Call | None = None) -> Call:
    """A call that switches to the next name, round and round, and then does something with it."""
    order = cycle(names)
    if then is None:
        return lambda: switch(next(order))

    def call() -> None:
        switch(next(order))
        then()

    return call


def claims(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """peft over petune with the most resident, and petune's growth from the fewest to the most."""
    first, last = cells[0], cells[-1]
    few, many = (cell["milliseconds"]["petune"]["median"] for cell in (first, last))
    there = f"{last['resident']} resident"
    return [
        at_least(f"switch, {there}: peft over petune", PEFT_OVER_PETUNE, last["milliseconds"]["peft"]["median"] / many),
        at_most(f"switch, {there} over {first['resident']} resident", NO_GROWTH, many / few),
    ]
