"""Pairs of texts: does a sentence say what a claim says of a name? Synthetic claims on CoNLL-2003 sentences."""

from __future__ import annotations

from typing import Any

from benchmarks import real_data
from benchmarks.tasks import _sets
from petune import TrainConfig, Tuner
from petune.tasks.sequence_classification import SequenceClassification

TRAIN, TEST = 900, 300


def run(seed: int) -> dict[str, Any]:
    """LoRA for two epochs; labels are yes, no and unknown in about equal parts."""
    train, test = _sets.entailed("train", TRAIN, seed), _sets.entailed("test", TEST, 0)
    task = SequenceClassification(text="text", text_pair="text_pair", max_length=64)
    tuner = Tuner(str(real_data.encoder_folder()), task=task, method="lora")
    tuner.fit(train, config=TrainConfig(epochs=2, batch_size=16, learning_rate=1e-3, seed=seed, progress="off"))
    return {
        "task": "sequence-classification",
        "method": "lora",
        "backbone": "all-MiniLM-L6-v2",
        "data": "claims about names in CoNLL-2003 sentences",
        "synthetic": True,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {"after": dict(tuner.evaluate(test, ["matthews-correlation"]))},
        "seconds": round(tuner.report.seconds, 1),
    }
