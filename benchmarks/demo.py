"""The demo: every method beside full fine-tuning, on a real encoder and real data; then save, reload, merge, hot-swap.

    make demo        (or: python -m benchmarks.demo; the result goes to benchmarks/results/demo.json)

Movie-review snippets (Hutto & Gilbert 2014) are the data of the table, TREC question types (Li & Roth 2002) those of
the second adapter, all-MiniLM-L6-v2 is the encoder; `benchmarks.real_data` says where they come from. The exit status
is 1 if a check fails. One seed and one epoch, after which there is nothing to choose, so no validation rows are read: a
demonstration. The measured comparison is `benchmarks.quality`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine, real_data
from benchmarks.compare import THREADS, Job, apart, sample
from petune import AdaptedModel, Tuner

TRAIN = 2000
# One epoch of 125 steps is short. The rates are the methods' defaults, but for the probe, which learns faster at ten
# times its own; chosen on validation rows.
RATES = {"head": 5e-2, "full": 1e-4, "lora": 5e-4, "adalora": 5e-3, "bottleneck": 1e-3, "prefix": 3e-2}
MERGEABLE = ("lora", "adalora")
QUESTIONS = ("bottleneck", 2e-3)
"""Method and rate of the second adapter; chosen on validation rows."""
LARGEST_MERGE_DIFFERENCE = 1e-4
COLUMNS = ["method", "trainable", "share", "accuracy", "seconds", "real tokens/s", "peak memory", "on disk"]
TEXT = "a moving, funny film"
LINES = """Tuner(encoder, method="lora").fit(train_rows).save("adapters/mood")
model = AdaptedModel(encoder).add("mood", "adapters/mood").add("questions", "adapters/questions")
model.predict([{text!r}], adapters=["mood"])    # [{answer!r}]"""


class Check(NamedTuple):
    """One thing that must hold, and what was seen."""

    what: str
    passed: bool
    seen: str


def main() -> int:
    """Runs all of it; 0 when every check passed."""
    torch.set_num_threads(THREADS)
    started, console = time.perf_counter(), Console(width=100, highlight=False)
    encoder, moods, kinds = str(real_data.encoder_folder()), reviews(), questions()
    console.print(f"{machine.describe()['cpu']}, {THREADS} threads; encoder all-MiniLM-L6-v2, 22.7 M, frozen")
    console.print(f"Movie reviews: {sizes(moods)}")
    with tempfile.TemporaryDirectory() as place:
        arms = []
        for name, rate in RATES.items():
            console.print(f"\n{name}")
            arms.append(apart(Job(name, name, encoder, Path(place) / name, moods, rate)))
        console.print(arms_table(arms), memory_note(arms), "", sep="\n")
        console.print(f"A second adapter, {QUESTIONS[0]}, for question types: {sizes(kinds)}")
        method, rate = QUESTIONS
        second = apart(Job("questions", method, encoder, Path(place) / "questions", kinds, rate))
        console.print(f"accuracy {second['accuracy']:.3f} in {second['seconds']:.0f} s\n")
        afterwards = after(console, encoder, arms, second, moods, kinds)
    checks = [*beats_the_probe(arms), *held(afterwards)]
    for check in checks:
        console.print(f"{'pass' if check.passed else 'FAIL'}  {check.what}: {check.seen}")
    seconds = time.perf_counter() - started
    console.print(f"\n{seconds:.0f} s in all. The three lines that did it:\n")
    console.print(afterwards["lines"], markup=False)
    path = machine.write_result("demo", result(arms, second, afterwards, checks, seconds))
    console.print(f"\nWritten: {path.relative_to(machine.ROOT)}")
    return 0 if all(check.passed for check in checks) else 1


def reviews() -> real_data.Parts:
    """A fixed subset of the training part, the whole test part."""
    return subset(real_data.sentiment())


def questions() -> real_data.Parts:
    """The same of the questions, for the second adapter."""
    return subset(real_data.questions())


def subset(parts: real_data.Parts) -> real_data.Parts:
    """The first training rows, and all test rows."""
    return {"train": parts["train"][:TRAIN], "test": parts["test"]}


def sizes(parts: real_data.Parts) -> str:
    """How many rows each part has."""
    return ", ".join(f"{len(rows):,} {name}" for name, rows in parts.items())


def arms_table(arms: list[dict[str, Any]]) -> Table:
    """One row per arm."""
    table = Table(title="Movie-review sentiment, one epoch, one seed")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for arm in arms:
        table.add_row(*cells(arm))
    return table


def cells(arm: dict[str, Any]) -> list[str]:
    """The words of one row of the table."""
    return [
        arm["name"],
        f"{arm['trainable_parameters']:,}",
        f"{arm['trainable_share']:.2%}",
        f"{arm['accuracy']:.3f}",
        f"{arm['seconds']:.0f}",
        f"{arm['tokens_per_second']:,.0f}",
        f"{arm['peak_memory_megabytes']:,.0f} MB",
        f"{arm['bytes'] / 1e6:.2f} MB",
    ]


def memory_note(arms: list[dict[str, Any]]) -> str:
    """What the columns mean."""
    libraries = max(arm["libraries_megabytes"] for arm in arms)
    return (
        "Peak memory: the most that the arm's own process had resident up to the end of its training, of\n"
        f"which about {libraries:,.0f} MB before the encoder was opened. Seconds: training. On disk: the saved\n"
        "weights (full: the whole model). head is the frozen probe: only the classifier learns. Dropout:\n"
        "the encoder's own."
    )


def after(
    console: Console, encoder: str, arms: list[dict[str, Any]], second: dict[str, Any], moods: Any, kinds: Any
) -> dict[str, Any]:
    """What is done with the saved adapters: reload, merge, hot-swap."""
    differences, merges = {}, {}
    for arm in arms:
        tuner = Tuner.load(arm["folder"])
        differences[arm["name"]] = float(np.abs(tuner.predict_proba(sample(moods)) - np.array(arm["sample"])).max())
        if arm["name"] in MERGEABLE:
            tuner.merge()
            console.print(str(tuner.merge_receipt))
            merges[arm["name"]] = tuner.merge_receipt.max_logit_difference
            tuner.unmerge()
    mood = next(arm for arm in arms if arm["name"] == "lora")
    model = AdaptedModel(encoder).add("mood", mood["folder"]).add("questions", second["folder"])
    swap = a_b_a(model, sample(moods))
    console.print(f"Hot-swap on one encoder: mood {swap['first']}, questions {swap['second']}, mood again.")
    texts = [moods["test"][0]["text"], kinds["test"][0]["text"], moods["test"][1]["text"], kinds["test"][1]["text"]]
    answers = model.predict(texts, adapters=["mood", "questions"] * 2)
    console.print("One predict call, two adapters:")
    for text, answer in zip(texts, answers, strict=True):
        console.print(f"  {answer:9} {text[:86]}", markup=False)
    console.print()
    lines = LINES.format(text=TEXT, answer=model.predict([TEXT], adapters="mood")[0])
    return {"reload": differences, "merge": merges, "a_b_a_equal": swap["equal"], "answers": answers, "lines": lines}


@torch.no_grad()
def a_b_a(model: AdaptedModel, texts: list[str]) -> dict[str, Any]:
    """Logits of the first adapter, the second, and the first again, on the same batch."""
    inputs = model.tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    first, second, again = (model(**inputs, route=name).logits for name in ("mood", "questions", "mood"))
    return {"first": tuple(first.shape), "second": tuple(second.shape), "equal": torch.equal(first, again)}


def beats_the_probe(arms: list[dict[str, Any]]) -> list[Check]:
    """Every arm against the frozen probe of the same run."""
    floor = next(arm["accuracy"] for arm in arms if arm["name"] == "head")
    return [
        Check(f"{arm['name']} beats the frozen probe", arm["accuracy"] > floor, f"{arm['accuracy']:.3f} > {floor:.3f}")
        for arm in arms
        if arm["name"] != "head"
    ]


def held(afterwards: dict[str, Any]) -> list[Check]:
    """What must hold of the saved adapters."""
    reload, merge = max(afterwards["reload"].values()), max(afterwards["merge"].values())
    allowed, equal = LARGEST_MERGE_DIFFERENCE, afterwards["a_b_a_equal"]
    return [
        Check("reloaded in another process, every arm answers the same", reload == 0, f"difference {reload:g}"),
        Check("merging keeps the logits", merge <= allowed, f"difference {merge:.1e}, at most {allowed:g}"),
        Check("A, B, A is bit-equal", equal, "equal" if equal else "different"),
    ]


def result(
    arms: list[dict[str, Any]], second: dict[str, Any], afterwards: dict[str, Any], checks: list[Check], seconds: float
) -> dict[str, Any]:
    """What the result file keeps: figures, no folders and no texts of the data."""
    unkept = ("folder", "sample")
    plain = [{key: value for key, value in arm.items() if key not in unkept} for arm in (*arms, second)]
    kept = {key: value for key, value in afterwards.items() if key in ("reload", "merge", "a_b_a_equal")}
    said = [check._asdict() for check in checks]
    return {
        "seed": 0,
        "rows": {"train": TRAIN},
        "arms": plain[:-1],
        "second": plain[-1],
        **kept,
        "checks": said,
        "seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
