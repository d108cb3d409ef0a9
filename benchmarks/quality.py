"""Question: how much of full fine-tuning's score does each method reach, with how few parameters?

Every arm, full fine-tuning and the frozen probe included, gets the same treatment: the same rows, the same epochs, the
best epoch by validation, and a grid of three learning rates, a third, one and three times the arm's own default. The
best rate by validation runs with three seeds; the test part is read once per such run. Every arm but the probe also
runs once over the whole set, for one epoch, which is more steps than the epochs over the subset make. Dropout is the
backbone's own in every arm (in the adapted blocks, which here are all blocks).

    python -m benchmarks.quality                # all sets, then benchmarks/results/quality.json
    python -m benchmarks.quality --set NAME --arms lora full    # a part; it goes on where it stopped
    python -m benchmarks.quality --collect      # puts what the sets have so far into quality.json, prints the table

Scores do not depend on the number of threads but for rounding, so parts may run side by side, one thread each.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, real_data
from petune import LoRA, SequenceClassification, TokenClassification, TrainConfig, Tuner
from petune.lookup import find

ARMS = ("head", "lora", "lora-top", "full", "bottleneck", "adalora", "prefix")
TOP = 2
"""Blocks that `lora-top` adapts, the top third; its trunk is computed once."""
FACTORS = (1 / 3, 1.0, 3.0)
SEEDS = (0, 1, 2)
WHOLE = tuple(arm for arm in ARMS if arm != "head")
UNFINISHED = Path(__file__).parent / "results" / "quality-runs"
"""One file per set and arm, written after every run, so that a stopped benchmark goes on."""


class Set:
    """One data set: rows, task, epochs, and which figure is its score."""

    def __init__(self, load: Callable[[], dict[str, list[Any]]], task: Any, score: str, epochs: int, rows: int) -> None:
        self.parts, self.task, self.score, self.epochs, self.rows = load(), task, score, epochs, rows

    def train(self, whole: bool) -> list[Any]:
        """The training rows: all of them, or the fixed subset, the first in the order of the split."""
        return self.parts["train"] if whole else self.parts["train"][: self.rows]

    @property
    def validation(self) -> list[Any]:
        """The fixed validation rows."""
        return self.parts["validation"][:600]


SETS = {
    "sentiment": lambda: Set(real_data.sentiment, SequenceClassification(max_length=64), "accuracy", 2, 2000),
    "conll2003": lambda: Set(real_data.conll2003, TokenClassification(max_length=128), "f1", 2, 2000),
}


def main() -> None:
    """Runs what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=tuple(SETS), help="only this data set")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=ARMS, help="only these methods")
    parser.add_argument("--collect", action="store_true", help="run nothing")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in () if asked.collect else ([asked.set] if asked.set else SETS):
        data = SETS[name]()
        for arm in asked.arms:
            _arm(name, data, arm)
    if not asked.set:
        runs = [run for name in SETS for arm in ARMS for run in _runs(name, arm)]
        machine.write_result("quality", {"arms": ARMS, "factors": FACTORS, "seeds": SEEDS, "runs": runs})
        print(table(runs))


def _runs(name: str, arm: str) -> list[dict[str, Any]]:
    path = UNFINISHED / f"{name}-{arm}.json"
    return json.loads(path.read_text()) if path.exists() else []  # type: ignore[no-any-return]


def _arm(name: str, data: Set, arm: str) -> None:
    """Every run of one arm that is not there yet: the grid, its seeds at the best rate, and once the whole set."""
    runs, default = _runs(name, arm), _default_rate(arm)
    what = {"set": name, "arm": arm, "seed": 0, "whole": False}
    for factor in FACTORS:
        _once(runs, data, {**what, "rate": default * factor}, test=False)
    best = {**what, "rate": _best_rate(runs)}
    for seed in SEEDS:
        _once(runs, data, {**best, "seed": seed}, test=True)
    if arm in WHOLE:
        _once(runs, data, {**best, "whole": True}, test=True)


def _best_rate(runs: list[dict[str, Any]]) -> float:
    grid = [run for run in runs if run["seed"] == 0 and not run["whole"] and not _between(run)]
    return float(max(grid, key=lambda run: run["validation"])["rate"])


def _between(run: dict[str, Any]) -> bool:
    """Whether a run's rate is none of the grid's: such runs are shown apart, because not every arm had them."""
    default = _default_rate(run["arm"])
    return not any(math.isclose(run["rate"], default * factor) for factor in FACTORS)


def _default_rate(arm: str) -> float:
    """The method's own."""
    return float(find("methods", "lora" if arm == "lora-top" else arm).learning_rate)


_kept: dict[str, Tuner] = {}
"""The best run of the current grid, so that its test score needs no second training."""


def _once(runs: list[dict[str, Any]], data: Set, what: dict[str, Any], *, test: bool) -> None:
    """One training run, unless its result is there; `test` adds the test part's figures to it."""
    done = next((run for run in runs if all(run[key] == value for key, value in what.items())), None)
    if done is not None and (not test or "test" in done):
        return
    tuner = _kept.get(json.dumps(what, sort_keys=True))
    if done is None or tuner is None:
        tuner, measured = _train(data, what)
        if done is None:
            runs.append(done := {**what, **measured})
        alike = [run for run in runs if run["whole"] == what["whole"]]
        if done is max(alike, key=lambda run: run["validation"]):
            _kept.clear()
            _kept[json.dumps(what, sort_keys=True)] = tuner
    if test:
        figures = dict(tuner.evaluate(data.parts["test"]))
        done["test"], done["test_figures"] = figures[data.score], figures
    UNFINISHED.mkdir(parents=True, exist_ok=True)
    (UNFINISHED / f"{what['set']}-{what['arm']}.json").write_text(json.dumps(runs, indent=1) + "\n")
    print(
        {key: done[key] for key in ("set", "arm", "rate", "seed", "whole", "validation")}, done.get("test"), flush=True
    )


def _train(data: Set, what: dict[str, Any]) -> tuple[Tuner, dict[str, Any]]:
    method = LoRA(top=TOP) if what["arm"] == "lora-top" else what["arm"]
    tuner = Tuner(real_data.encoder_folder(), task=data.task, method=method)
    epochs = 1 if what["whole"] else data.epochs
    config = TrainConfig(epochs=epochs, learning_rate=what["rate"], seed=what["seed"], progress="off")
    rows = data.train(what["whole"])
    started = time.perf_counter()
    tuner.fit(rows, data.validation, config)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as place:
        size = sum(path.stat().st_size for path in tuner.save(place).iterdir() if path.suffix == ".safetensors")
    head = 0 if what["arm"] == "full" else sum(tensor.numel() for tensor in tuner.adapter.head().values())
    return tuner, {
        "validation": float(tuner.report.best[data.score]),
        "rows": len(rows),
        "epochs": epochs,
        "parameters_besides_head": tuner.report.trainable_parameters - head,
        "seconds": seconds,
        "tokens_per_second": tuner.report.tokens_per_second,
        "peak_memory_megabytes": tuner.report.peak_memory_megabytes,
        "bytes": size,
        "threads": torch.get_num_threads(),
        "commit": machine.describe()["commit"],
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: one row per set and arm with three tested seeds, then the runs on the whole sets."""
    lines = [
        "| set | method | parameters besides the head | learning rate | score, mean (min to max) of 3 seeds "
        "| of full | of the gain over the probe | token micro F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SETS:
        lines += _seeds_rows(name, {arm: _tested(runs, name, arm) for arm in ARMS})
    for name in SETS:
        lines += _whole_rows(name, [run for run in _on_the_whole(runs) if run["set"] == name])
    if between := [run for run in runs if _between(run) and "test" in run]:
        lines += ["", *_between_lines(between)]
    if left := _not_run(runs):
        lines += ["", f"Not run yet: {', '.join(left)}. `python -m benchmarks.quality` goes on where it stopped."]
    return "\n".join(lines)


def _seeds_rows(name: str, tested: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The rows of one set: the score of each arm, and how much of full's score and of its gain it keeps."""
    means = {arm: statistics.mean(run["test"] for run in found) for arm, found in tested.items() if found}
    for arm, mean in means.items():
        found = tested[arm]
        tests = [run["test"] for run in found]
        gain = _share(mean - means["head"], means["full"] - means["head"]) if {"head", "full"} <= means.keys() else ""
        of_full = f"{mean / means['full']:.1%}" if "full" in means else ""
        seeds = "" if len(found) == len(SEEDS) else f", {len(found)} seeds"
        yield (
            f"| {name} | {arm} | {found[0]['parameters_besides_head']:,} | {found[0]['rate']:.1e} "
            f"| {mean:.4f} ({min(tests):.4f} to {max(tests):.4f}){seeds} | {of_full} | {gain} | {_tokens(found)} |"
        )


def _whole_rows(name: str, runs: list[dict[str, Any]]) -> Iterator[str]:
    """The rows of the runs on the whole of a set, one seed each."""
    full = next((run["test"] for run in runs if run["arm"] == "full"), None)
    for run in runs:
        of_full = f"{run['test'] / full:.1%}" if full else ""
        yield (
            f"| {name}, whole ({run['rows']:,} rows) | {run['arm']} | {run['parameters_besides_head']:,} "
            f"| {run['rate']:.1e} | {run['test']:.4f} (1 seed) | {of_full} | "
            f"| {_tokens([run])} |"
        )


def _between_lines(runs: list[dict[str, Any]]) -> Iterator[str]:
    """One sentence for the runs of an arm at a rate between those of the grid."""
    alike: dict[tuple[str, str, float, bool], list[float]] = {}
    for run in runs:
        alike.setdefault((run["set"], run["arm"], run["rate"], run["whole"]), []).append(run["test"])
    told = [
        f"{arm} on {'the whole of ' if whole else ''}{name} at {rate:.1e}: {statistics.mean(found):.4f} "
        f"({len(found)} seed{'s' if len(found) > 1 else ''})"
        for (name, arm, rate, whole), found in alike.items()
    ]
    yield f"Rates between those of the grid, which not every arm was given: {'; '.join(told)}."


def _tokens(runs: list[dict[str, Any]]) -> str:
    """The mean over the runs of the micro F1 over all tags of all words, `O` included; empty for texts."""
    found = [run["test_figures"]["token_f1_micro"] for run in runs if "token_f1_micro" in run["test_figures"]]
    return f"{statistics.mean(found):.4f}" if found else ""


def _not_run(runs: list[dict[str, Any]]) -> list[str]:
    """The arms that lack tested seeds, and the whole sets that were not trained on."""
    seeds = [(n, arm) for n in SETS for arm in ARMS if len(_tested(runs, n, arm)) < len(SEEDS)]
    whole = {(run["set"], run["arm"]) for run in _on_the_whole(runs)}
    left = [(n, arm) for n in SETS for arm in WHOLE if (n, arm) not in whole]
    return [*(f"{arm} on {n}" for n, arm in seeds), *(f"{arm} on the whole of {n}" for n, arm in left)]


def _on_the_whole(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs on whole sets, each at its arm's best rate on the subset."""
    best = {
        (name, arm): _best_rate(mine)
        for name in SETS
        for arm in ARMS
        if (mine := [run for run in runs if (run["set"], run["arm"]) == (name, arm)])
    }
    return [run for run in runs if run["whole"] and "test" in run and run["rate"] == best[run["set"], run["arm"]]]


def _tested(runs: list[dict[str, Any]], name: str, arm: str) -> list[dict[str, Any]]:
    mine = [r for r in runs if (r["set"], r["arm"]) == (name, arm)]
    best = _best_rate(mine) if mine else None
    return [r for r in mine if r["rate"] == best and not r["whole"] and "test" in r]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "no gain"


if __name__ == "__main__":
    main()
