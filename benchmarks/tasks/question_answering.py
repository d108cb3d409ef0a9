"""Question answering: which person, place or organisation is named in a text? Synthetic questions on CoNLL-2003.

Every fourth question has no answer. Long contexts are eight sentences, more than fit into `max_length`, and are read in
windows by the same adapter.
"""

from __future__ import annotations

from typing import Any

from benchmarks import real_data
from benchmarks.tasks import _sets
from petune import TrainConfig, Tuner
from petune.tasks.question_answering import QuestionAnswering

TRAIN, TEST, LONG = 1000, 300, 60


def run(seed: int) -> dict[str, Any]:
    """LoRA for three epochs; the long contexts are read in windows of 64 pieces."""
    train = _sets.asked_for_names("train", TRAIN, seed)
    test, far = _sets.asked_for_names("test", TEST, 0), _sets.asked_for_names("test", LONG, 1, sentences=8)
    task = QuestionAnswering(max_length=64, stride=24)
    tuner = Tuner(str(real_data.encoder_folder()), task=task, method="lora")
    tuner.fit(train, config=TrainConfig(epochs=3, batch_size=16, learning_rate=2e-3, seed=seed, progress="off"))
    return {
        "task": "question-answering",
        "method": "lora",
        "backbone": "all-MiniLM-L6-v2",
        "data": "questions for names in CoNLL-2003 sentences",
        "synthetic": True,
        "rows": {"train": len(train), "test": len(test), "long contexts": len(far)},
        "scores": {"after": dict(tuner.evaluate(test)), "long contexts": dict(tuner.evaluate(far))},
        "seconds": round(tuner.report.seconds, 1),
    }
