"""Instruction: the headline of a news text (a stand-in for summaries), by an instructed decoder.

The data are the BBC news of `texts.headlines`, their first 40 words; the decoder is SmolLM2-135M-Instruct.
"""

from __future__ import annotations

from typing import Any

from benchmarks.tasks import texts
from petune import Instruction, LoRA, TrainConfig, Tuner

TRAIN, TEST, WORDS = 160, 50, 40


def run(seed: int) -> dict[str, Any]:
    """LoRA in the upper six of thirty blocks for two epochs."""
    asked = "Write the headline of this news text, in a few words."
    parts = texts.headlines(WORDS)
    train, test = (
        [{"instruction": asked, "input": row["text"], "output": row["headline"]} for row in parts[part][:count]]
        for part, count in (("train", TRAIN), ("test", TEST))
    )
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=5e-4, seed=seed, progress="off")
    with texts.decoder() as folder:
        task, method = Instruction(max_new_tokens=16), LoRA(rank=8, top=6)
        before = texts.untrained(Tuner(folder, task=task, method=method), train).evaluate(test)
        tuner = Tuner(folder, task=task, method=method).fit(train, config=config)
        after = tuner.evaluate(test)
    return {
        "task": "instruction",
        "method": "lora",
        "backbone": "SmolLM2-135M-Instruct",
        "data": "BBC news, headlines",
        "synthetic": False,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {"before": dict(before), "after": dict(after)},
        "seconds": round(tuner.report.seconds, 1),
    }
