"""Question: how long until petune reaches the score of the recipe that tutorials teach?

    python -m benchmarks.tutorial_recipe                          # about fifteen minutes on two quiet cores
    python -m benchmarks.tutorial_recipe --repeats 1 --rows 64    # a check that it runs: nothing is written

The recipe: full fine-tuning with the transformers Trainer, every text padded to 128 pieces, batch 16, AdamW at 2e-5,
three epochs, the encoder's own dropout. Its score is its accuracy on the validation rows when it is done. petune reads
the same rows with LoRA at three times its default rate, which `benchmarks.quality` chose on validation rows, and
evaluates after every epoch; the clock stops after the first epoch whose validation accuracy is the recipe's or better.
Evaluations are in no time. If petune never gets there, it says so, and the whole run counts. Each repeat has a seed of
its own, on both sides; every run is a process of its own, so that its memory is its own. The test part is read once per
run. The result goes to benchmarks/results/tutorial_recipe.json and tutorial_recipe.svg.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import bars, machine, real_data
from benchmarks.processes import Growth, in_its_own
from benchmarks.serving.claims import at_least
from benchmarks.serving.tables import claim_row
from benchmarks.train_step import control, ours
from benchmarks.train_step.__main__ import quiet
from benchmarks.train_step.settings import Settings, rehearsal
from petune import LoRA, TrainConfig
from petune.training.callbacks import Callback, Row

PADDED, TUTORIAL_RATE, TUTORIAL_EPOCHS = 128, 2e-5, 3
RATE, ATTEMPTS = 1.5e-3, {"petune, LoRA": (None, 3), "petune, LoRA, top 2, trunk kept": (2, 8)}
"""Arm -> adapted top blocks (None: all), and epochs at most. The first one is the claim."""
FEWEST = 3


def main(words: list[str] | None = None) -> None:
    """Measures, prints the table, and writes what is a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=FEWEST)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(words)
    check = asked.repeats < FEWEST
    settings = Settings(
        str(real_data.encoder_folder()), asked.rows, 100 if check else None, repeats=asked.repeats, max_length=PADDED
    )
    result = run(settings, asked.threads)
    if not check:
        machine.write_result("tutorial_recipe", result)
        (machine.RESULTS / "tutorial_recipe.svg").write_text(picture(result), encoding="utf-8")
    print(table(result))


def run(settings: Settings, threads: int) -> dict[str, Any]:
    """The recipe, and what reaches its score, once per seed."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("tutorial", *ATTEMPTS)}
    for seed in range(settings.repeats):
        told = in_its_own(tutorial, settings, seed, threads=threads)
        runs["tutorial"].append(told)
        for name in ATTEMPTS:
            runs[name].append(in_its_own(attempt, settings, seed, name, told["validation"], threads=threads))
        print(f"seed {seed}:", {name: runs[name][-1] for name in runs}, flush=True)
    keys = ("seconds", "megabytes", "validation", "test")
    return {
        "rows": {name: len(part) for name, part in _parts(settings).items()},
        "repeats": settings.repeats,
        "claims": claims(runs),
        "arms": {name: {key: statistics.median(each[key] for each in found) for key in keys}
                 | {"reached": sum(each["reached"] for each in found)} for name, found in runs.items()},
        "runs": runs,
    }  # fmt: skip


def _parts(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    validation = settings.parts["validation"][: settings.tested]
    return {"train": settings.train, "validation": validation, "test": settings.test}


def tutorial(settings: Settings, seed: int) -> dict[str, Any]:
    """The recipe, whole."""
    quiet()
    with tempfile.TemporaryDirectory() as place:
        control.trained(small := rehearsal(settings, Path(place)), control.model(small, dropout=True))
    parts, grown = _parts(settings), Growth()
    learner = control.model(settings, dropout=True)
    rows = control.encoded(settings, parts["train"], padded=PADDED)
    with tempfile.TemporaryDirectory() as place:
        seconds = control.clocked(control.trainer(
            settings, learner, rows, place, best=False, learning_rate=TUTORIAL_RATE, num_train_epochs=TUTORIAL_EPOCHS,
            weight_decay=0.01, seed=seed,
        ))  # fmt: skip
    megabytes = grown.megabytes
    scores = {name: control.accuracy(settings, learner, parts[name]) for name in ("validation", "test")}
    return {"seconds": seconds, "megabytes": megabytes, "epochs": TUTORIAL_EPOCHS, "reached": True, **scores}


class Until(Callback):
    """Notes when an evaluation first reaches a score; evaluations themselves are left out of the time."""

    def __init__(self, score: float) -> None:
        self.score, self.evaluating = score, 0.0
        self.started = self._last = time.perf_counter()
        self.reached: tuple[float, float, int] | None = None
        """Seconds, score and epoch."""

    def on_step(self, row: Row) -> None:
        self._last = time.perf_counter()

    def on_evaluate(self, row: Row) -> None:
        took = self._last - self.started - self.evaluating
        self.evaluating += time.perf_counter() - self._last
        if self.reached is None and row["eval_accuracy"] >= self.score:
            self.reached = took, row["eval_accuracy"], round(row["epoch"])


def attempt(settings: Settings, seed: int, name: str, score: float) -> dict[str, Any]:
    """petune, until the score is there; reading and encoding the rows are in its time."""
    quiet()
    parts, (top, epochs) = _parts(settings), ATTEMPTS[name]
    with tempfile.TemporaryDirectory() as place:
        small = rehearsal(settings, Path(place))
        ours.tuner(small, small.backbone(dropout=True), LoRA()).fit(small.train, small.train, ours.config(small))
    grown = Growth()
    tuner = ours.tuner(settings, settings.backbone(dropout=True), LoRA(top=top))
    config = TrainConfig(
        epochs=epochs, batch_size=settings.batch, learning_rate=RATE, seed=seed, cache_trunk=top is not None,
        progress="off",
    )  # fmt: skip
    watch = Until(score)
    tuner.fit(parts["train"], parts["validation"], config, callbacks=[watch])
    whole = time.perf_counter() - watch.started - watch.evaluating, tuner.report.best["accuracy"], epochs
    seconds, validation, seen = watch.reached or whole
    return {
        "seconds": seconds,
        "megabytes": grown.megabytes,
        "epochs": seen,
        "reached": watch.reached is not None,
        "validation": validation,
        "test": tuner.evaluate(parts["test"])["accuracy"],
    }


def claims(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Time of the recipe over petune's, the median over the seeds; a seed that never got there counts as nothing."""

    def over(name: str) -> float:
        pairs = zip(runs["tutorial"], runs[name], strict=True)
        return statistics.median(one["seconds"] / own["seconds"] if own["reached"] else 0.0 for one, own in pairs)

    return [at_least(f"time to the tutorial's score: tutorial over {name}", 8.0, over(name)) for name in ATTEMPTS]


def table(result: dict[str, Any]) -> str:
    """The targets, then the arms."""
    lines = ["| figure | target | measured | met |", "|---|---:|---:|---|", *map(claim_row, result["claims"])]
    lines += ["", "| arm | seconds | memory, MB | validation | test | reached |", "|---|---:|---:|---:|---:|---:|"]
    for name, arm in result["arms"].items():
        lines.append(
            f"| {name} | {arm['seconds']:.1f} | {arm['megabytes']:,.0f} | {arm['validation']:.3f} "
            f"| {arm['test']:.3f} | {arm['reached']} of {result['repeats']} |"
        )
    return "\n".join(lines)


def picture(result: dict[str, Any]) -> str:
    """Seconds until the score is there."""
    return bars.drawn(
        "Seconds until the tutorial's score", {name: arm["seconds"] for name, arm in result["arms"].items()}
    )


if __name__ == "__main__":
    main()
