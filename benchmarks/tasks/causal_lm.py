"""Causal language modelling: the perplexity of news texts, packed into blocks in which they stay apart.

The data are the BBC news of `texts.headlines`, their first 60 words; the decoder is SmolLM2-135M-Instruct.
"""

from __future__ import annotations

from typing import Any

from benchmarks.tasks import texts
from petune import CausalLM, LoRA, TrainConfig, Tuner

TRAIN, TEST, WORDS = 120, 40, 60


def run(seed: int) -> dict[str, Any]:
    """LoRA in the upper six of thirty blocks for one epoch."""
    parts = texts.headlines(WORDS)
    train, test = parts["train"][:TRAIN], parts["test"][:TEST]
    task, method = CausalLM(text="text", packing=True, max_length=128), LoRA(rank=8, top=6)
    config = TrainConfig(epochs=1, batch_size=4, learning_rate=3e-4, seed=seed, progress="off")
    with texts.decoder() as folder:
        before = texts.untrained(Tuner(folder, task=task, method=method), train).evaluate(test, batch_size=4)
        tuner = Tuner(folder, task=task, method=method).fit(train, config=config)
        after = tuner.evaluate(test, batch_size=4)
    return {
        "task": "causal-lm",
        "method": "lora",
        "backbone": "SmolLM2-135M-Instruct",
        "data": "BBC news, packed",
        "synthetic": False,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {"before": dict(before), "after": dict(after)},
        "seconds": round(tuner.report.seconds, 1),
        "padding_share": tuner.report.padding_share,
    }
