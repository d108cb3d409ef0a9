"""Several labels a text: which kinds of names a CoNLL-2003 sentence holds, none to four of them.

Sentences and names are real; that the kinds are the labels is our own use of them.

Scored on the validation part: the test part had been read with fewer steps, after which the settings were changed.
"""

from __future__ import annotations

from typing import Any

from benchmarks import real_data
from petune import TrainConfig, Tuner
from petune.tasks.sequence_classification import SequenceClassification

TRAIN, TEST = 1000, 400


def run(seed: int) -> dict[str, Any]:
    """LoRA for five epochs on the first sentences of the training part."""
    parts = real_data.conll2003()
    train, test = kinds(parts["train"])[:TRAIN], kinds(parts["validation"])[:TEST]
    task = SequenceClassification(problem_type="multi_label_classification", max_length=64)
    tuner = Tuner(str(real_data.encoder_folder()), task=task, method="lora")
    tuner.fit(train, config=TrainConfig(epochs=5, batch_size=16, learning_rate=2e-3, seed=seed, progress="off"))
    return {
        "task": "sequence-classification",
        "method": "lora",
        "backbone": "all-MiniLM-L6-v2",
        "data": "kinds of names in CoNLL-2003 sentences, as labels",
        "synthetic": False,
        "rows": {"train": len(train), "validation": len(test)},
        "scores": {"after": dict(tuner.evaluate(test))},
        "seconds": round(tuner.report.seconds, 1),
    }


def kinds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A text, and the kinds of names in it."""
    return [
        {"text": " ".join(row["tokens"]), "label": sorted({tag.partition("-")[2] for tag in row["tags"]} - {""})}
        for row in rows
    ]
