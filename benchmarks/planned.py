"""Question: how well does `Tuner.plan` know, before training, what a run takes?

    python -m benchmarks.planned                          # about five minutes on two quiet cores
    python -m benchmarks.planned --repeats 1 --rows 64    # a check that it runs: nothing is written

Each setting plans and fits in two fresh processes, so that neither finds the other's memory: seconds per epoch (the
mean over the epochs, the filling of a cache counted) and peak memory, predicted beside measured. Real sentiment data,
all-MiniLM-L6-v2, batch 16. The result goes to benchmarks/results/planned.json and planned.svg.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks import bars, machine, real_data
from benchmarks.processes import in_its_own
from benchmarks.serving.claims import at_most
from benchmarks.serving.tables import claim_row
from benchmarks.train_step.ours import clocked
from petune import AdaLoRA, Bottleneck, LoRA, SequenceClassification, TrainConfig, Tuner

SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LoRA, all blocks": (LoRA(), {"epochs": 2, "cache_trunk": False}),
    "LoRA, top 2, trunk kept": (LoRA(top=2), {"epochs": 5, "cache_trunk": True}),
    "AdaLoRA": (AdaLoRA(), {"epochs": 2, "cache_trunk": False}),
    "bottleneck": (Bottleneck(), {"epochs": 2, "cache_trunk": False}),
    "full fine-tuning": ("full", {"epochs": 1}),
}
FIGURES = ("seconds per epoch", "peak megabytes")
ALLOWED = 0.25
FEWEST = 3


def main(words: list[str] | None = None) -> None:
    """Measures, prints the table, and writes what is a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=FEWEST)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(words)
    rows = real_data.sentiment()["train"][: asked.rows]
    result = run(str(real_data.encoder_folder()), rows, asked.repeats, asked.threads)
    if asked.repeats >= FEWEST:
        machine.write_result("planned", result)
        (machine.RESULTS / "planned.svg").write_text(picture(result), encoding="utf-8")
    print(table(result))


def run(encoder: str, rows: list[dict[str, Any]], repeats: int, threads: int) -> dict[str, Any]:
    """Every setting, predicted and measured, as JSON."""
    settings: dict[str, Any] = {}
    for name in SETTINGS:
        pairs = [
            (in_its_own(planned, name, encoder, rows, threads=threads),
             in_its_own(measured, name, encoder, rows, threads=threads))
            for _ in range(repeats)
        ]  # fmt: skip
        found = {side: [pair[index] for pair in pairs] for index, side in enumerate(("predicted", "measured"))}
        settings[name] = {
            figure: {side: statistics.median(each[figure] for each in runs) for side, runs in found.items()}
            for figure in FIGURES
        }
        settings[name]["runs"] = found
        print(name, {figure: settings[name][figure] for figure in FIGURES}, flush=True)
    return {"rows": len(rows), "repeats": repeats, "claims": claims(settings), "settings": settings}


def planned(name: str, encoder: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the plan says."""
    tuner, config = _tuner(name, encoder)
    plan = tuner.plan(rows, config)
    assert plan.seconds_per_epoch is not None
    return {
        "seconds per epoch": plan.seconds_per_epoch,
        "peak megabytes": plan.peak_memory_megabytes,
        "cache megabytes": plan.cache_megabytes,
    }


def measured(name: str, encoder: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the fit took: the seconds of its loop, and the memory of its own report."""
    tuner, config = _tuner(name, encoder)
    with clocked() as seconds:
        tuner.fit(rows, config=config)
    return {
        "seconds per epoch": sum(seconds) / config.epochs,
        "peak megabytes": tuner.report.peak_memory_megabytes,
    }


def _tuner(name: str, encoder: str) -> tuple[Tuner, TrainConfig]:
    method, knobs = SETTINGS[name]
    return Tuner(encoder, task=SequenceClassification(max_length=64), method=method), TrainConfig(
        progress="off", **knobs
    )


def claims(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """How far each prediction is off, relative to what was measured."""
    return [
        at_most(f"{name}: {figure}, off by", ALLOWED, abs(pair["predicted"] - pair["measured"]) / pair["measured"])
        for name, found in settings.items()
        for figure, pair in ((figure, found[figure]) for figure in FIGURES)
    ]


def table(result: dict[str, Any]) -> str:
    """Predicted beside measured, then the targets."""
    lines = ["| setting | seconds per epoch, predicted | measured | peak MB, predicted | measured |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, found in result["settings"].items():
        seconds, memory = (found[figure] for figure in FIGURES)
        lines.append(
            f"| {name} | {seconds['predicted']:.2f} | {seconds['measured']:.2f} "
            f"| {memory['predicted']:,.0f} | {memory['measured']:,.0f} |"
        )
    lines += ["", "| figure | target | measured | met |", "|---|---:|---:|---|", *map(claim_row, result["claims"])]
    return "\n".join(lines)


def picture(result: dict[str, Any]) -> str:
    """Measured seconds per epoch as bars; a line stands where the plan said."""
    found = {f"petune, {name}": each["seconds per epoch"] for name, each in result["settings"].items()}
    return bars.drawn(
        "Seconds per epoch (line: planned)",
        {name: pair["measured"] for name, pair in found.items()},
        {name: pair["predicted"] for name, pair in found.items()},
    )


if __name__ == "__main__":
    main()
