"""From the seconds of every round to figures: medians, forward-equivalents, shares of the limit, and the targets."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.serving.claims import at_least, at_most
from benchmarks.train_step.floors import Operations
from benchmarks.train_step.settings import Settings

LIMITS = {
    "petune, defaults": "all", "peft, best": "all", "petune, exact": "all", "peft, best, epochs": "all",
    "peft, best, top": "top", "petune, exact, top": "top", "petune, trunk kept": "kept",
}  # fmt: skip
"""Arm -> which limit is its own. The encoder's dropout in `petune, defaults` is work that its limit does not count."""
Rounds = dict[str, list[float]]
"""Arm -> seconds per epoch, one per round."""


def limits(settings: Settings, seconds: Rounds, work: dict[str, Operations]) -> Rounds:
    """Kind of limit -> seconds per epoch, one per round."""
    own = {name: [work[name].limit(value) for value in seconds[name]] for name in work}
    first, later = own["floor, top"], own["floor, top, trunk kept"]
    kept = [(a + (settings.epochs - 1) * b) / settings.epochs for a, b in zip(first, later, strict=True)]
    return {"all": own["floor, all blocks"], "top": first, "kept": kept}


def arms(settings: Settings, seconds: Rounds, allowed: Rounds, scores: dict[str, float]) -> dict[str, Any]:
    """What a result keeps of every arm."""
    tokens = sum(settings.lengths)
    found: dict[str, Any] = {}
    for name, values in seconds.items():
        rates = [tokens / value for value in values]
        found[name] = {
            "tokens_per_second": {"median": statistics.median(rates), "min": min(rates), "max": max(rates)},
            "seconds_per_epoch": statistics.median(values),
            "forward_equivalents": ratio(values, seconds["floor, forward"]),
        }
        if name in LIMITS:
            found[name]["of_limit"] = ratio(allowed[LIMITS[name]], values)
        if name in scores:
            found[name]["accuracy"] = scores[name]
    return found


def ratio(ones: list[float], others: list[float]) -> float:
    """The median over the rounds of one over the other, so that both are of the same minute."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def claims(
    seconds: Rounds, made: dict[str, Any], saved: dict[str, Any], traces: dict[str, Any]
) -> list[dict[str, Any]]:
    """The figures that have a target."""

    def faster(than: str, arm: str) -> float:
        return ratio(seconds[than], seconds[arm])

    theirs = f"{ratio(seconds['peft AdaLoRA'], seconds['peft, best']):.2f}"
    kept, exact, ours = "petune, trunk kept", "petune, exact", "petune, defaults"
    return [
        at_least("petune, exact, over peft + Trainer at its defaults", 1.5, faster("peft, defaults", exact)),
        at_least("petune over peft + Trainer, both at their defaults", 1.5, faster("peft, defaults", ours)),
        at_least("petune, exact, over peft at its best", 1.05, faster("peft, best", exact)),
        at_least("petune, exact: share of the limit", 0.9, made[exact]["of_limit"]),
        at_least("trunk kept, top third, over peft at its best, all blocks", 2.4, faster("peft, best, epochs", kept)),
        at_least("trunk kept, top third: share of the limit", 0.8, made[kept]["of_limit"]),
        at_least("trunk kept over peft at its best, same blocks", 1.4, faster("peft, best, top", kept)),
        at_most(f"AdaLoRA step over LoRA step (peft: {theirs})", 1.2, ratio(seconds["petune AdaLoRA"], seconds[exact])),
        at_most(
            f"saved activations, LoRA dropout 0.1 over none (peft: {saved['peft']['ratio']:.2f})",
            1.1,
            saved["petune"]["ratio"],
        ),
        at_most(
            "trunk kept against exact: largest loss difference, in 100,000ths of the loss",
            1.0,
            traces["trunk kept and exact"]["largest"] * 1e5,
        ),
    ]  # fmt: skip
