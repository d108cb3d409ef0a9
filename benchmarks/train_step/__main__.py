"""Question: what does a training step cost beside the floors, and beside peft with the transformers Trainer?

    python -m benchmarks.train_step                         # about twelve minutes, on two quiet cores
    python -m benchmarks.train_step --repeats 1 --rows 64   # a check that it runs: nothing is written

All arms run in one process and take turns, the order rotating; before the first round each has run once over a few
rows. Batch 16, the same rows, the same pieces, the same first rate, float32. Clocks stand around `Trainer.train()` and
around petune's loop: neither reading, encoding nor loading is in them, making the optimizer and filling the cache are.
Floors, limits, traces and saved bytes are told in the modules of their names. Memory is the question of
`benchmarks.training_memory`. The result goes to benchmarks/results/train_step.json and train_step.svg.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from dataclasses import replace
from typing import Any

import torch
from transformers.utils import logging

from benchmarks import machine, real_data
from benchmarks.serving.timing import rotated
from benchmarks.train_step import figures
from benchmarks.train_step.arms import arms
from benchmarks.train_step.floors import Floors, operations
from benchmarks.train_step.outcome import Outcome
from benchmarks.train_step.saved import saved_bytes
from benchmarks.train_step.settings import Settings
from benchmarks.train_step.tables import picture, table
from benchmarks.train_step.traces import traces

FEWEST = 5
"""Repeats below which a run is a check and no result."""


def main(words: list[str] | None = None) -> None:
    """Measures, prints the table, and writes what is a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=Settings.repeats)
    parser.add_argument("--rows", type=int, default=Settings.rows)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(words)
    torch.set_num_threads(asked.threads)
    quiet()
    check = asked.repeats < FEWEST
    settings = Settings(
        str(real_data.encoder_folder()), asked.rows, 100 if check else None, repeats=asked.repeats,
        traced=10 if check else Settings.traced,
    )  # fmt: skip
    result = run(settings)
    if not check:
        machine.write_result("train_step", result)
        (machine.RESULTS / "train_step.svg").write_text(picture(result), encoding="utf-8")
    print(table(result))


def quiet() -> None:
    """No bars and no advice in the output."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft asks for it
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def run(settings: Settings) -> dict[str, Any]:
    """The whole measurement as JSON."""
    began, floors = time.perf_counter(), Floors(settings)
    compared, saved = traces(settings), saved_bytes(settings)
    seconds, scores = rounds(settings, floors)
    shapes = [tuple(batch["input_ids"].shape) for batch in floors.batches]
    allowed = figures.limits(settings, seconds, operations(settings, floors.model.config, shapes))  # type: ignore[arg-type]
    made = figures.arms(settings, seconds, allowed, scores)
    return {
        "rows": {"train": len(settings.train), "test": len(settings.test)},
        "batch": settings.batch,
        "epochs": settings.epochs,
        "top": settings.top,
        "repeats": settings.repeats,
        "real_tokens_per_epoch": sum(settings.lengths),
        "claims": figures.claims(seconds, made, saved, compared),
        "arms": made,
        "traces": compared,
        "saved_bytes": saved,
        "seconds_per_epoch": seconds,
        "seconds": time.perf_counter() - began,
    }


def rounds(settings: Settings, floors: Floors) -> tuple[figures.Rounds, dict[str, float]]:
    """Seconds per epoch of every arm and floor in every round, and the accuracy that an arm's last run came to."""
    bare, tokens = floors.calls(), sum(settings.lengths)
    every = arms(settings)
    for warm in arms(replace(settings, rows=min(settings.rows, 2 * settings.batch), epochs=1)).values():
        warm()
    seconds: figures.Rounds = {name: [] for name in (*bare, *every)}
    scores: dict[str, float] = {}
    for number in range(settings.repeats):
        for name in rotated(list(seconds), number):
            gc.collect()  # what the arm before left in cycles is no work of this one
            if name in bare:
                started = time.perf_counter()
                bare[name]()
                seconds[name].append(time.perf_counter() - started)
                continue
            outcome: Outcome = every[name]()
            seconds[name].append(outcome.seconds * tokens / outcome.tokens)
            if number + 1 == settings.repeats:
                scores[name] = outcome.score()
        print(f"round {number + 1} of {settings.repeats}", flush=True)
    return seconds, scores


if __name__ == "__main__":
    main()
