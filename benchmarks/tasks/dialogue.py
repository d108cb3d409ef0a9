"""Dialogue: short replies of a robot, by an instructed decoder that has a manner of its own before.

The data are the English conversations of `chatterbot-corpus`, the decoder is SmolLM2-135M-Instruct with its own chat
template.
"""

from __future__ import annotations

from typing import Any

from benchmarks.tasks import texts
from petune import Dialogue, LoRA, TrainConfig, Tuner

TRAIN, TEST = 160, 40


def run(seed: int) -> dict[str, Any]:
    """LoRA in the upper six of thirty blocks for two epochs."""
    parts = texts.conversations()
    train, test = parts["train"][:TRAIN], parts["test"][:TEST]
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=5e-4, seed=seed, progress="off")
    with texts.decoder() as folder:
        task, method = Dialogue(max_new_tokens=32), LoRA(rank=8, top=6)
        before = texts.untrained(Tuner(folder, task=task, method=method), train).evaluate(test)
        tuner = Tuner(folder, task=task, method=method).fit(train, config=config)
        after = tuner.evaluate(test)
        asked = [row["messages"][:1] for row in test[:3]]
        samples = [{"asked": row[0]["content"], "reply": tuner.chat(row)} for row in asked]
    return {
        "task": "dialogue",
        "method": "lora",
        "backbone": "SmolLM2-135M-Instruct",
        "data": "chatterbot-corpus, English",
        "synthetic": False,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {"before": dict(before), "after": dict(after)},
        "seconds": round(tuner.report.seconds, 1),
        "samples": samples,
    }
