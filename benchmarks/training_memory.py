"""Question: how much memory does a training run take at its worst?

    python -m benchmarks.training_memory                          # a few minutes on two quiet cores
    python -m benchmarks.training_memory --repeats 1 --rows 64    # a check that it runs: nothing is written

Every run is a process of its own: its largest resident memory, less what it held just before the backbone was built.
The same arm has run on an encoder of almost no size by then, so that every library is loaded.
Batch 16, rows grouped by length, AdamW, the encoder's own dropout off, float32; the arms that name 128 pad every row to
128 pieces, as tutorials do. Medians over the repeats. The result goes to benchmarks/results/training_memory.json and
training_memory.svg.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import bars, machine, real_data
from benchmarks.processes import Growth, in_its_own
from benchmarks.serving.claims import at_most
from benchmarks.serving.tables import claim_row
from benchmarks.train_step import control, ours
from benchmarks.train_step.__main__ import quiet
from benchmarks.train_step.settings import Settings, rehearsal
from petune import AdaLoRA, LoRA

PADDED = 128
FEWEST = 3


def _petune(method: Callable[[int], Any], **knobs: Any) -> Callable[[Settings], Any]:
    """`method` makes one, and is told how many blocks the top third is."""
    knobs = {"backbone_dropout": False, **knobs}
    return lambda settings: ours.fitted(settings, settings.backbone(dropout=False), method(settings.top), **knobs)


def _peft(*, top: bool) -> Callable[[Settings], Any]:
    return lambda settings: control.trained(
        settings, control.with_lora(settings, control.model(settings, dropout=False), settings.top if top else None)
    )


def _padded(lora: bool) -> Callable[[Settings], Any]:
    """The Trainer on rows of 128 pieces each."""

    def train(settings: Settings) -> Any:
        learner = control.model(settings, dropout=False)
        learner = control.with_lora(settings, learner) if lora else learner
        return control.trained(settings, learner, padded=PADDED)

    return train


ARMS: dict[str, Callable[[Settings], Any]] = {
    "full fine-tuning, Trainer": lambda settings: control.trained(settings, control.model(settings, dropout=False)),
    "petune, full": _petune(lambda top: "full", learning_rate=1e-4),
    "peft, LoRA": _peft(top=False),
    "petune, LoRA": _petune(lambda top: LoRA()),
    "petune, AdaLoRA": _petune(lambda top: AdaLoRA()),
    "peft, LoRA, top third": _peft(top=True),
    "petune, LoRA, top third, trunk kept": _petune(lambda top: LoRA(top=top), cache_trunk=True, epochs=2),
    "full fine-tuning, padded to 128": _padded(lora=False),
    "peft, LoRA, padded to 128": _padded(lora=True),
}


def main(words: list[str] | None = None) -> None:
    """Measures, prints the table, and writes what is a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=FEWEST)
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(words)
    settings = Settings(str(real_data.encoder_folder()), asked.rows, repeats=asked.repeats)
    result = run(settings, asked.threads)
    if asked.repeats >= FEWEST:
        machine.write_result("training_memory", result)
        (machine.RESULTS / "training_memory.svg").write_text(picture(result), encoding="utf-8")
    print(table(result))


def run(settings: Settings, threads: int, names: tuple[str, ...] = tuple(ARMS)) -> dict[str, Any]:
    """Megabytes of every arm, as JSON."""
    runs: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(settings.repeats):
        for name in names:
            runs[name].append(in_its_own(grown, settings, name, threads=threads))
            print(f"{name}: {runs[name][-1]:,.0f} MB", flush=True)
    megabytes = {name: statistics.median(each) for name, each in runs.items()}
    rows = len(settings.train)
    return {
        "rows": rows,
        "repeats": settings.repeats,
        "claims": claims(megabytes),
        "megabytes": megabytes,
        "runs": runs,
    }


def grown(settings: Settings, name: str) -> float:
    """The most that one run adds to a process that has its libraries and its rows."""
    quiet()
    assert settings.lengths
    with tempfile.TemporaryDirectory() as place:
        ARMS[name](rehearsal(settings, Path(place)))
    growth = Growth()
    ARMS[name](settings)
    return growth.megabytes


def claims(megabytes: dict[str, float]) -> list[dict[str, Any]]:
    """LoRA over full fine-tuning, whichever full is the smaller, and over peft's."""
    lora, full = megabytes["petune, LoRA"], min(megabytes["full fine-tuning, Trainer"], megabytes["petune, full"])
    return [
        at_most("peak memory: LoRA over full fine-tuning", 0.5, lora / full),
        at_most("peak memory: LoRA, petune over peft", 1.0, lora / megabytes["peft, LoRA"]),
    ]


def table(result: dict[str, Any]) -> str:
    """The targets, then the arms."""
    lines = ["| figure | target | measured | met |", "|---|---:|---:|---|", *map(claim_row, result["claims"])]
    lines += ["", "| arm | peak memory, MB |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {value:,.0f} |" for name, value in result["megabytes"].items())])


def picture(result: dict[str, Any]) -> str:
    """Megabytes of every arm."""
    return bars.drawn("Training: peak memory above the bare process, MB", result["megabytes"])


if __name__ == "__main__":
    main()
