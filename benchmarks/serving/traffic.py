"""Many adapters on disk, few in memory: the requests per second of a store beside those with everything resident.

A request is one text for one adapter; which one is drawn by Zipf's law, independently for each request. Both arms
answer the same batches of requests by `predict`, tokenizing and heads included, and must give the same labels. In the
control every adapter that the traffic asks for is resident before the clock starts. The store begins with what the
warm-up traffic left in it, and loads the rest while it answers; the files are in the page cache.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
from collections import OrderedDict
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks import real_data
from benchmarks.serving import making
from benchmarks.serving.claims import at_least
from benchmarks.serving.settings import Settings
from benchmarks.serving.timing import resting_collector, rotated
from petune import AdaptedModel, AdapterStore
from petune.storage.packing import fingerprint

OF_RESIDENT = 0.60
WARMING = 3
"""Repeats' worth of traffic before the clock starts; it fills the store."""


class Batch(NamedTuple):
    """Requests that arrive together."""

    texts: list[str]
    names: list[str]


def run(settings: Settings) -> dict[str, Any]:
    """Both arms over the same traffic, batch by batch in turn."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        home = AdaptedModel(settings.encoder)
        fingerprint(home.backbone)
        making.put_many(home, settings.stored, making.TARGETS["all linear"], place)
        traffic = drawn(settings)
        everything = sorted({name for batch in traffic for name in batch.names})
        control = AdaptedModel(settings.encoder)
        for name in everything:
            control.add(name, place / name)
        stored = AdaptedModel(settings.encoder, store=AdapterStore(place, resident=settings.resident))
        answered = replayed({"all resident": control, "store": stored}, traffic, settings)
    per_second = {
        arm: [settings.rows * settings.batches / seconds for seconds in found] for arm, found in answered.items()
    }
    told = {arm: {"median": statistics.median(f), "min": min(f), "max": max(f)} for arm, f in per_second.items()}
    timed = traffic[WARMING * settings.batches :]
    facts = {
        "on_disk": settings.stored,
        "resident": settings.resident,
        "asked_for": len(everything),
        "rows": settings.rows,
        "batches": len(timed),
        "exponent": settings.exponent,
        "loads_per_batch": loads(traffic, settings.resident, len(timed)),
        "distinct_per_batch": statistics.mean(len(set(batch.names)) for batch in timed),
    }
    cells = [{**facts, "requests_per_second": told}]
    return {"cells": cells, "claims": claims(cells)}


def drawn(settings: Settings) -> list[Batch]:
    """All the traffic, warm-up first: real review snippets, and an adapter for each by Zipf's law."""
    texts = itertools.cycle(row["text"] for row in real_data.sentiment()["test"])
    draw = random.Random(0)
    weights = [(rank + 1) ** -settings.exponent for rank in range(settings.stored)]
    names = [f"a{number}" for number in range(settings.stored)]
    draw.shuffle(names)  # which adapters are popular has nothing to do with their names
    count = (WARMING + settings.repeats) * settings.batches
    return [
        Batch(list(itertools.islice(texts, settings.rows)), draw.choices(names, weights, k=settings.rows))
        for _ in range(count)
    ]


def replayed(arms: dict[str, AdaptedModel], traffic: list[Batch], settings: Settings) -> dict[str, list[float]]:
    """Seconds of each repeat's batches in each arm; the arms take turns at every batch.

    Raises:
        AssertionError: the arms answer differently.
    """
    kept: dict[str, list[float]] = {arm: [0.0] * (WARMING + settings.repeats) for arm in arms}
    for number, batch in enumerate(traffic):
        answers: dict[str, Any] = {}
        for arm in rotated(list(arms), number):
            with resting_collector():
                started = perf_counter()
                answers[arm] = arms[arm].predict(batch.texts, adapters=batch.names)
                kept[arm][number // settings.batches] += perf_counter() - started
        assert len({tuple(answer) for answer in answers.values()}) == 1, f"batch {number}: the arms answer differently"
    return {arm: seconds[WARMING:] for arm, seconds in kept.items()}


def loads(traffic: list[Batch], resident: int, last: int) -> float:
    """Adapters per batch, among the last batches, that a least-recently-used store has to load."""
    there: OrderedDict[str, None] = OrderedDict()
    loaded = []
    for batch in traffic:
        asked = dict.fromkeys(batch.names)
        loaded.append(sum(name not in there for name in asked))
        for name in asked:
            there[name] = None
            there.move_to_end(name)
        while len(there) > resident:
            there.popitem(last=False)
    return statistics.mean(loaded[-last:])


def claims(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The store's share of the requests per second with everything resident."""
    cell = cells[0]
    told = cell["requests_per_second"]
    what = (
        f"{cell['on_disk']:,} adapters on disk, {cell['resident']} resident, Zipf traffic (s = {cell['exponent']}): "
        "requests/s over all resident"
    )
    return [at_least(what, OF_RESIDENT, told["store"]["median"] / told["all resident"]["median"])]
