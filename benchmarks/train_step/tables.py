"""A result of `benchmarks.train_step` as Markdown and as a picture."""

from __future__ import annotations

from typing import Any

from benchmarks import bars
from benchmarks.serving.tables import claim_row


def table(result: dict[str, Any]) -> str:
    """Every figure beside its target, then the arms.

    Args:
        result: what `benchmarks/results/train_step.json` holds.
    """
    lines = ["| figure | target | measured | met |", "|---|---:|---:|---|", *map(claim_row, result["claims"])]
    lines += ["", "| arm | real tokens/s (least to most) | forward-equivalents | of the limit | accuracy |"]
    lines += ["|---|---:|---:|---:|---:|", *(_arm_row(name, arm) for name, arm in result["arms"].items())]
    saved = result["saved_bytes"]
    added = ", ".join(f"{name} {arm['ratio']:.2f}" for name, arm in saved.items())
    traces = "; ".join(
        f"{name}: {trace['largest']:.1e} over {trace['steps']} steps" for name, trace in result["traces"].items()
    )
    rows = result["rows"]
    return "\n".join([
        *lines, "",
        f"{rows['train']:,} training rows, {rows['test']:,} test rows; batch {result['batch']}; arms of "
        f"{result['epochs']} epochs: those that name them, and `trunk kept`; the others one. A forward-equivalent is "
        "the time of one forward of the bare encoder over the same rows.",
        f"Saved activations with dropout over without: {added}. Largest relative loss difference: {traces}.",
    ])  # fmt: skip


def _arm_row(name: str, arm: dict[str, Any]) -> str:
    rate = arm["tokens_per_second"]
    limit = f"{arm['of_limit']:.0%}" if "of_limit" in arm else ""
    score = f"{arm['accuracy']:.3f}" if "accuracy" in arm else ""
    return (
        f"| {name} | {rate['median']:,.0f} ({rate['min']:,.0f} to {rate['max']:,.0f}) "
        f"| {arm['forward_equivalents']:.2f} | {limit} | {score} |"
    )


def picture(result: dict[str, Any]) -> str:
    """Real tokens per second of every arm; a line stands at the limit of an arm that has one."""
    rates = {name: arm["tokens_per_second"]["median"] for name, arm in result["arms"].items()}
    limits = {name: rates[name] / arm["of_limit"] for name, arm in result["arms"].items() if "of_limit" in arm}
    return bars.drawn("Training: real tokens per second (line: limit)", rates, limits)
