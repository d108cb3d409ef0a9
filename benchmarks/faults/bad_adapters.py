"""Bad adapter folders, each as damaged and with every digest made right again, through the three ways into a model.

A load, a load into a live model and a hot swap must each answer with an error of petune's that names the folder, the
key or field and the cause, and says what to do, in under 2 seconds of processor time. A failure is anything else: an
error that says less, a warning, silence, a hang, a payload that ran, a live model that answers otherwise afterwards.
Good folders must load bit for bit.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.faults import bad_configs, bad_container, bad_files, bad_manifests, bad_tensors
from benchmarks.faults.adapter_folder import Kind
from benchmarks.faults.judging import IDS, Bench, Verdict, good_folders
from petune import Tuner

COUNT = 1_000
"""More kinds than there are: all of them."""
SURFACES = ("load", "load into a live model", "hot swap")
OUTCOMES = ("clear", "obscure", "slow", "warning only", "silent", "hang")


def catalogue() -> dict[str, list[Kind]]:
    """Group -> its kinds."""
    return {
        "container": bad_container.kinds(),
        "tensors": bad_tensors.kinds(),
        "config": [*bad_manifests.kinds(), *bad_configs.kinds()],
        "files": bad_files.kinds(),
    }


class Case(NamedTuple):
    """One form of one kind on one surface, and what it came to."""

    kind: str
    form: str
    surface: str
    verdict: Verdict

    @property
    def failed(self) -> bool:
        """Whether it is anything but clear and harmless."""
        return self.verdict.outcome != "clear" or self.verdict.executed or self.verdict.changed


def tried(kinds: list[Kind], bench: Bench) -> list[Case]:
    """Every form of some kinds, through every surface."""
    return [
        Case(kind.name, form.name, surface, bench.try_folder(surface, form.make, form.words, kind.path))
        for kind in kinds
        for form in kind.forms
        for surface in SURFACES
    ]


def loaded_good(bench: Bench) -> dict[str, bool]:
    """Name of a good folder -> whether every surface loads it, and the model then answers with the same bits."""
    wanted = bench.before[1][0]
    found = {}
    for name, folder in good_folders(bench.place / "goods").items():
        answers: list[Callable[[], torch.Tensor]] = [
            lambda folder=folder: _answer(bench, "new", lambda: bench.model.add("new", folder)),
            lambda folder=folder: _answer(bench, "live", lambda: bench.model.replace("live", folder)),
        ]
        Tuner.load(folder, backbone=bench.backbone)
        found[name] = all(torch.equal(answer(), wanted) for answer in answers)
        bench.model.remove("new")
    return found


def _answer(bench: Bench, name: str, load: Callable[[], Any]) -> torch.Tensor:
    load()
    with torch.no_grad():
        logits: torch.Tensor = bench.model(input_ids=IDS, attention_mask=(IDS != 0).long(), route=name).logits
    return logits


def run(count: int, seed: int) -> dict[str, Any]:
    """Tries up to so many kinds, drawn by the seed where there are more."""
    groups = catalogue()
    every = [(group, kind) for group, kinds in groups.items() for kind in kinds]
    drawn = every if count >= len(every) else random.Random(seed).sample(every, count)
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place))
        cases = {group: tried([kind for home, kind in drawn if home == group], bench) for group in groups}
        good = loaded_good(bench)
    flat = [case for found in cases.values() for case in found]
    return {
        "kinds": {group: sum(home == group for home, _ in drawn) for group in groups},
        "loads": len(flat),
        "by_surface": {surface: _counted([c for c in flat if c.surface == surface]) for surface in SURFACES},
        "by_group": {group: _counted(found) for group, found in cases.items()},
        "good_folders_bit_exact": f"{sum(good.values())} of {len(good)}",
        "failed": sorted({f"{c.kind}, {c.form}, {c.surface}: {c.verdict.outcome}" for c in flat if c.failed}),
        "failures": sum(case.failed for case in flat) + sum(not fine for fine in good.values()),
    }


def _counted(cases: list[Case]) -> dict[str, int]:
    outcomes = Counter(case.verdict.outcome for case in cases)
    return {
        **{outcome: outcomes[outcome] for outcome in OUTCOMES},
        "code executed": sum(case.verdict.executed for case in cases),
        "live output changed": sum(case.verdict.changed for case in cases),
    }
