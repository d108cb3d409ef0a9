"""Summarization: the headlines of news texts, by a small T5 that is not pretrained (see `translation`).

The data are the BBC news of `texts.headlines`, their first 30 words. The task `instruction` writes the same headlines
by a pretrained decoder.
"""

from __future__ import annotations

from typing import Any

from benchmarks.tasks import texts
from petune import Summarization, TrainConfig, Tuner

TRAIN, TEST, WORDS = 800, 60, 30


def run(seed: int) -> dict[str, Any]:
    """Full fine-tuning for eight epochs; two beams."""
    parts = texts.headlines(WORDS)
    train, test = parts["train"][:TRAIN], parts["test"][:TEST]
    model, tokenizer = texts.scratch((text for row in train for text in row.values()), seed)
    task = Summarization(source="text", target="headline", max_new_tokens=20, generation={"num_beams": 2})
    config = TrainConfig(epochs=8, batch_size=32, learning_rate=2e-3, seed=seed, progress="off")
    tuner = Tuner(model, task=task, method="full", tokenizer=tokenizer)
    before = texts.untrained(tuner, train).evaluate(test)
    after = tuner.fit(train, config=config).evaluate(test)
    return {
        "task": "summarization",
        "method": "full",
        "backbone": texts.SCRATCH,
        "data": "BBC news, headlines",
        "synthetic": False,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {"before": dict(before), "after": dict(after)},
        "seconds": round(tuner.report.seconds, 1),
    }
