"""Translation: the messages of a web framework from English to French, by a small T5 that is not pretrained.

No pretrained encoder-decoder for text is to be had from the package index, so a small one is trained whole (`full`),
from random weights, on a few hundred short messages: the figures tell that the mechanics are right, not what an adapter
on a real one reaches.
"""

from __future__ import annotations

from typing import Any

from benchmarks.tasks import texts
from petune import TrainConfig, Translation, Tuner


def run(seed: int) -> dict[str, Any]:
    """Full fine-tuning for fifteen epochs; greedy."""
    parts = texts.messages("fr")
    train, test = parts["train"], parts["test"]
    model, tokenizer = texts.scratch((text for row in train for text in row.values()), seed)
    task = Translation(source="text", target="translation", max_new_tokens=40, max_length=64)
    config = TrainConfig(epochs=15, batch_size=32, learning_rate=2e-3, seed=seed, progress="off")
    tuner = Tuner(model, task=task, method="full", tokenizer=tokenizer)
    before = texts.untrained(tuner, train).evaluate(test)
    after = tuner.fit(train, config=config).evaluate(test)
    return {
        "task": "translation",
        "method": "full",
        "backbone": texts.SCRATCH,
        "data": "Django's messages, English to French",
        "synthetic": False,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {"before": dict(before), "after": dict(after)},
        "seconds": round(tuner.report.seconds, 1),
    }
