"""Similarity: which of the held-out articles does a BBC headline belong to? Pairs alone, in-batch negatives.

The encoder, all-MiniLM-L6-v2, was made for such a search, so the score before is high; what a few minutes on 640
pairs add is the question. Both scores are of the same rows.

Scored on the validation part: the test part had been read with fewer steps, after which the settings were changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import real_data
from benchmarks.tasks import _sets
from petune import AdaptedModel, TrainConfig, Tuner
from petune.metrics.base import compute
from petune.tasks._nearness import rankings
from petune.tasks.similarity import Similarity

TRAIN, TEST, PIECES = 640, 200, 64


def run(seed: int) -> dict[str, Any]:
    """LoRA for two epochs."""
    parts = _sets.headlines()
    train, test = parts["train"][:TRAIN], parts["validation"][:TEST]
    task = Similarity(text="headline", text_pair="body", max_length=PIECES)
    encoder = str(real_data.encoder_folder())
    tuner = Tuner(encoder, task=task, method="lora")
    tuner.fit(train, config=TrainConfig(epochs=2, batch_size=32, learning_rate=2e-3, seed=seed, progress="off"))
    return {
        "task": "similarity",
        "method": "lora",
        "backbone": "all-MiniLM-L6-v2",
        "data": "BBC headlines and articles",
        "synthetic": False,
        "rows": {"train": len(train), "validation": len(test)},
        "scores": {"before": bare(encoder, test), "after": dict(tuner.evaluate(test))},
        "seconds": round(tuner.report.seconds, 1),
    }


def bare(encoder: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the encoder alone finds, pooled in the same way."""
    import torch

    from petune.tasks._pooling import pooled

    model = AdaptedModel(encoder)
    texts = [(row["headline"], row["body"]) for row in rows]
    vectors: list[np.ndarray] = []
    for start in range(0, len(texts), 32):
        flat = [text for pair in texts[start : start + 32] for text in pair]
        inputs = model.tokenizer(flat, padding=True, truncation=True, max_length=PIECES, return_tensors="pt")
        with torch.no_grad():
            states = model.backbone.model.eval()(**inputs).last_hidden_state
        vectors += list(pooled(states, inputs["attention_mask"], "mean").unflatten(0, (-1, 2)).numpy())
    return compute(["recall-at-k"], rankings(vectors, texts), [body for _, body in texts])
