"""Speech to text: one real clip ("go forward ten meters") and noisy copies of it, with Whisper tiny.en.

There is a single real clip, so this is no measure of recognition: the adapter learns to write what is said as a robot's
command, which shows that features, first pieces, loss, writing and error rates fit together. `before` is what Whisper
writes by itself, scored against the words; `after` is scored against the command, on other copies than those that were
learnt from.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import speech
from petune import SpeechToText, TrainConfig, Tuner

TRAIN, TEST, COMMAND = 6, 3, "FORWARD 10 M"


def run(seed: int) -> dict[str, Any]:
    """LoRA in the decoder for five epochs."""
    train, test = (speech.noisy(count, at, COMMAND) for count, at in ((TRAIN, 1), (TEST, 2)))
    with TemporaryDirectory() as place:
        folder = str(speech.whisper_folder(Path(place)))
        tuner = Tuner(folder, task=SpeechToText(max_new_tokens=16), method="lora")
        still = TrainConfig(epochs=1, learning_rate=1e-12, warmup_ratio=0.0, seed=seed, progress="off")
        tuner.fit(train[:1], config=still)
        heard = tuner.predict([(speech.clip(), speech.RATE)])[0]
        tuner.fit(train, config=TrainConfig(epochs=5, batch_size=3, learning_rate=2e-3, seed=seed, progress="off"))
        after, written = tuner.evaluate(test), tuner.predict([(speech.clip(), speech.RATE)])[0]
    return {
        "task": "speech-to-text",
        "method": "lora",
        "backbone": "Whisper tiny.en",
        "data": "one real clip and noisy copies of it",
        "synthetic": True,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {"before": {"wer": rate_of(heard)}, "after": dict(after)},
        "heard": heard,
        "written": written,
        "seconds": round(tuner.report.seconds, 1),
    }


def rate_of(heard: str) -> float:
    """The word error rate of a transcript without case and full stop, against what is said."""
    from petune.metrics.wer import WordErrorRate

    found = WordErrorRate().compute(predictions=[heard.lower().rstrip(".")], references=[speech.SAID])
    return float(found["wer"])
