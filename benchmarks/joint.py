"""Fits one after the other against one joint fit, on the real encoder: `python -m benchmarks.joint --write`.

Both arms take the same steps on the same rows from the same seeds, in the same process, in turns, after a warm-up. All
dropout is off, so that the loss curves can be laid side by side: the largest relative difference is told.
Seconds are those of the loop, without reading data and building adapters; figures are medians over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from benchmarks.machine import write_result
from benchmarks.real_data import Row, encoder_folder, questions, sentiment
from petune import Bottleneck, Head, Job, LoRA, Prefix, SequenceClassification, TrainConfig, Tuner, fit_many

THREADS, MAX_LENGTH = 2, 64
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
Maker = Callable[[str, Any], Tuner]


def config(batch_size: int, **knobs: Any) -> TrainConfig:
    """One pass, without anything that differs between two runs of the same seed."""
    return TrainConfig(epochs=1, batch_size=batch_size, progress="off", **knobs)


def sweep(make: Maker, steps: int) -> list[Job]:
    """Four learning rates of one method on the same rows: each forward has the same rows four times."""
    rows = take(sentiment()["train"], 16 * steps)
    return [Job(make(f"rate-{rate:g}", LoRA()), rows, None, config(16, learning_rate=rate)) for rate in RATES]


def methods(make: Maker, steps: int) -> list[Job]:
    """Four methods, two of them on another task."""
    moods, kinds = take(sentiment()["train"], 16 * steps), take(questions()["train"], 16 * steps)
    recipes = {"lora": LoRA(), "bottleneck": Bottleneck(), "prefix": Prefix(), "head": Head()}
    return [
        Job(make(name, recipe), kinds if number % 2 else moods, None, config(16))
        for number, (name, recipe) in enumerate(recipes.items())
    ]


def customers(make: Maker, steps: int) -> list[Job]:
    """Eight adapters with small batches, each on rows of its own."""
    rows, each = take(sentiment()["train"], 8 * 2 * steps), 2 * steps
    return [
        Job(make(f"customer-{n}", LoRA()), rows[n * each : (n + 1) * each], None, config(2, seed=n)) for n in range(8)
    ]


SETTINGS: dict[str, Callable[[Maker, int], list[Job]]] = {
    "sweep": sweep, "methods": methods, "customers": customers,
}  # fmt: skip


def take(rows: list[Row], count: int) -> list[Row]:
    """The first rows, again from the start where there are too few."""
    return [rows[index % len(rows)] for index in range(count)]


def maker(model: PreTrainedModel, tokenizer: Any) -> Maker:
    """Makes tuners on one model."""
    task = SequenceClassification(max_length=MAX_LENGTH)
    return lambda name, method: Tuner(model, name=name, method=method, task=task, tokenizer=tokenizer)


def one_after_the_other(jobs: list[Job]) -> list[Tuner]:
    """The arm that is compared with."""
    return [job.tuner.fit(job.train, job.eval_data, job.config) for job in jobs]


def losses(tuner: Tuner) -> list[float]:
    """One per step."""
    return [row["loss"] for row in tuner.report.history if "loss" in row]


def apart(ones: list[Tuner], others: list[Tuner]) -> float:
    """The largest relative difference between two sets of loss curves."""
    pairs = (pair for a, b in zip(ones, others, strict=True) for pair in zip(losses(a), losses(b), strict=True))
    return max(abs(a - b) / abs(b) for a, b in pairs)


def measured(make: Maker, jobs_of: Callable[[Maker, int], list[Job]], steps: int, repeats: int) -> dict[str, Any]:
    """One setting: the seconds of both arms, and how far their curves are apart."""
    one_after_the_other(jobs_of(make, 2))
    fit_many(jobs_of(make, 2))
    alone: list[float] = []
    joint: list[float] = []
    differences = []
    for _ in range(repeats):
        solo, together = one_after_the_other(jobs_of(make, steps)), fit_many(jobs_of(make, steps))
        alone.append(sum(tuner.report.seconds for tuner in solo))
        joint.append(max(tuner.report.seconds for tuner in together))
        differences.append(apart(together, solo))
    tokens = sum(tuner.report.real_tokens for tuner in together)
    padding = {"alone": solo, "joint": together}
    return {
        "adapters": len(solo),
        "steps": steps,
        "real_tokens": tokens,
        "alone_seconds": statistics.median(alone),
        "joint_seconds": statistics.median(joint),
        "alone_over_joint": statistics.median(a / b for a, b in zip(alone, joint, strict=True)),
        "joint_tokens_per_second": tokens / statistics.median(joint),
        "largest_loss_difference": max(differences),
        "padding": {arm: statistics.mean(t.report.padding_share for t in ts) for arm, ts in padding.items()},
        "all_seconds": {"alone": alone, "joint": joint},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/joint.json")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    folder = encoder_folder()
    model = AutoModel.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).eval()
    make = maker(model, AutoTokenizer.from_pretrained(folder))
    found = {}
    for name in given.settings:
        found[name] = measured(make, SETTINGS[name], given.steps, given.repeats)
        shown = {key: value for key, value in found[name].items() if not isinstance(value, dict)}
        print(name, {key: float(f"{value:.4g}") for key, value in shown.items()}, flush=True)
    if given.write:
        print(write_result("joint", {"max_length": MAX_LENGTH, "repeats": given.repeats, "settings": found}))


if __name__ == "__main__":
    main()
