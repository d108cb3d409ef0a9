"""Question: what do eight jobs of a sweep cost on one kept trunk, beside eight runs of peft one after the other?

    python -m benchmarks.sweep                          # about fifteen minutes on two quiet cores
    python -m benchmarks.sweep --repeats 1 --rows 64    # a check that it runs: nothing is written

Ranks 4, 8, 16, 32 by two learning rates, the top third of the blocks, five epochs. petune: one `fit_many` whose jobs
share the trunk's output, filled in the run. Beside it peft with the Trainer at its best
(`benchmarks.train_step.control`) over all blocks, and over the same top blocks. Imports and loading are on no side:
clocks stand around petune's loop and around each `Trainer.train()`. The arms take turns. The result goes to
benchmarks/results/sweep.json and sweep.svg.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks import bars, machine, real_data
from benchmarks.serving.claims import at_least
from benchmarks.serving.tables import claim_row
from benchmarks.serving.timing import rotated
from benchmarks.train_step import control, ours
from benchmarks.train_step.__main__ import quiet
from benchmarks.train_step.settings import Settings
from petune import Job, LoRA, fit_many

RANKS, RATES = (4, 8, 16, 32), (5e-4, 1.5e-3)
FEWEST, TESTED = 3, 300
"""Repeats of a result; rows of the test split that give each job's accuracy."""
Run = tuple[float, list[float]]
"""Seconds of all jobs, and the accuracy of each."""


def main(words: list[str] | None = None) -> None:
    """Measures, prints the table, and writes what is a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=FEWEST)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(words)
    torch.set_num_threads(asked.threads)
    quiet()
    check = asked.repeats < FEWEST
    settings = Settings(
        str(real_data.encoder_folder()), asked.rows, 100 if check else TESTED, repeats=asked.repeats,
        epochs=2 if check else Settings.epochs,
    )  # fmt: skip
    result = run(settings)
    if not check:
        machine.write_result("sweep", result)
        (machine.RESULTS / "sweep.svg").write_text(picture(result), encoding="utf-8")
    print(table(result))


def run(settings: Settings, ranks: tuple[int, ...] = RANKS) -> dict[str, Any]:
    """All arms in turns, as JSON."""
    jobs = [replace(settings, rank=rank, rate=rate) for rank in ranks for rate in RATES]
    arms: dict[str, Callable[[], Run]] = {
        "petune, fit_many, trunk kept": lambda: joint(jobs),
        "petune, fit_many, trunk kept, last block trimmed": lambda: joint(jobs, trims=True),
        "petune, one after the other, trunk kept": lambda: alone(jobs),
        "peft, best, all blocks": lambda: theirs(jobs, None),
        "peft, best, same blocks": lambda: theirs(jobs, settings.top),
    }
    warm = replace(settings, rows=2 * settings.batch, tested=16, epochs=1)
    joint([warm])
    theirs([warm], None)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    scores: dict[str, list[float]] = {}
    for turn in range(settings.repeats):
        for name in rotated(list(arms), turn):
            took, scores[name] = arms[name]()
            seconds[name].append(took)
            print(f"round {turn + 1}: {name} {took:.1f} s", flush=True)
    return {
        "jobs": [{"rank": job.rank, "learning_rate": job.rate} for job in jobs],
        "rows": {"train": len(settings.train), "test": len(settings.test)},
        "epochs": settings.epochs,
        "top": settings.top,
        "repeats": settings.repeats,
        "claims": claims(seconds),
        "arms": {
            name: {
                "seconds": statistics.median(each), "all_seconds": each, "accuracies": scores[name],
                "tokens_per_second": len(jobs) * settings.epochs * sum(settings.lengths) / statistics.median(each),
            }
            for name, each in seconds.items()
        },
    }  # fmt: skip


def joint(jobs: list[Settings], *, trims: bool = False) -> Run:
    """One joint fit; each forward has the batch of every job, and all begin where the trunk ends.

    Args:
        trims: whether the last block is computed at the one position that the classifier reads.
    """
    model = jobs[0].backbone(dropout=False)
    made = [Job(_tuner(job, model), job.train, None, _config(job, trims)) for job in jobs]
    with ours.clocked() as seconds:
        tuners = fit_many(made)
    return sum(seconds), [tuner.evaluate(job.test)["accuracy"] for tuner, job in zip(tuners, jobs, strict=True)]


def alone(jobs: list[Settings]) -> Run:
    """A fit after the other, each with a cache of its own."""
    model = jobs[0].backbone(dropout=False)
    seconds, scores = 0.0, []
    for job in jobs:
        method = LoRA(rank=job.rank, alpha=job.alpha, top=job.top)
        outcome = ours.fitted(job, model, method, epochs=job.epochs, cache_trunk=True, backbone_dropout=False)
        seconds += outcome.seconds
        scores.append(outcome.score())
    return seconds, scores


def theirs(jobs: list[Settings], top: int | None) -> Run:
    """A run of the Trainer after the other."""
    seconds, scores = 0.0, []
    for job in jobs:
        learner = control.with_lora(job, control.model(job, dropout=False), top)
        outcome = control.trained(job, learner, num_train_epochs=job.epochs)
        seconds += outcome.seconds
        scores.append(outcome.score())
    return seconds, scores


def _tuner(job: Settings, model: Any) -> Any:
    return ours.tuner(job, model, LoRA(rank=job.rank, alpha=job.alpha, top=job.top))


def _config(job: Settings, trims: bool) -> Any:
    knobs = {"cache_trunk": True, "trim_last_block": trims, "backbone_dropout": False}
    return ours.config(job, epochs=job.epochs, **knobs)


def claims(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The ratios that have a target: the median over the rounds."""

    def over(other: str) -> float:
        pairs = zip(seconds[other], seconds["petune, fit_many, trunk kept"], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    return [
        at_least("sweep: peft at its best, all blocks, over petune", 2.4, over("peft, best, all blocks")),
        at_least("sweep: peft at its best, same blocks, over petune", 1.5, over("peft, best, same blocks")),
    ]


def table(result: dict[str, Any]) -> str:
    """The targets, then the arms."""
    lines = ["| figure | target | measured | met |", "|---|---:|---:|---|", *map(claim_row, result["claims"])]
    lines += ["", "| arm | seconds | real tokens/s | accuracy, worst to best job |", "|---|---:|---:|---:|"]
    for name, arm in result["arms"].items():
        least, most = min(arm["accuracies"]), max(arm["accuracies"])
        lines.append(f"| {name} | {arm['seconds']:.1f} | {arm['tokens_per_second']:,.0f} | {least:.3f} to {most:.3f} |")
    return "\n".join(lines)


def picture(result: dict[str, Any]) -> str:
    """Seconds of the whole sweep."""
    return bars.drawn(
        f"A sweep of {len(result['jobs'])} jobs: seconds",
        {name: arm["seconds"] for name, arm in result["arms"].items()},
    )


if __name__ == "__main__":
    main()
