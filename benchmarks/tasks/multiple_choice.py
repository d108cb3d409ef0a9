"""Multiple choice: is a name that of a person, a place, an organisation? Synthetic questions on CoNLL-2003."""

from __future__ import annotations

from typing import Any

from benchmarks import real_data
from benchmarks.tasks import _sets
from petune import TrainConfig, Tuner
from petune.tasks.multiple_choice import MultipleChoice

TRAIN, TEST = 600, 300


def run(seed: int) -> dict[str, Any]:
    """LoRA for two epochs; a guess among two to four options is told beside it."""
    train, test = _sets.chosen_kinds("train", TRAIN, seed), _sets.chosen_kinds("test", TEST, 0)
    tuner = Tuner(str(real_data.encoder_folder()), task=MultipleChoice(max_length=64), method="lora")
    tuner.fit(train, config=TrainConfig(epochs=2, batch_size=16, learning_rate=1e-3, seed=seed, progress="off"))
    return {
        "task": "multiple-choice",
        "method": "lora",
        "backbone": "all-MiniLM-L6-v2",
        "data": "kinds of names in CoNLL-2003 sentences",
        "synthetic": True,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {
            "a guess": {"accuracy": sum(1 / len(row["options"]) for row in test) / len(test)},
            "after": dict(tuner.evaluate(test)),
        },
        "seconds": round(tuner.report.seconds, 1),
    }
