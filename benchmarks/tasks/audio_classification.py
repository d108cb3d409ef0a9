"""Audio classification: synthetic tones (rising, falling, steady, trembling), with the encoder of Whisper tiny.en.

No real labelled sounds are to be had from a package, so this shows that the parts work together, not what they reach.
`before` is the head alone on the frozen backbone. The rates were chosen on tones of another seed (3).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import speech
from petune import LoRA, TrainConfig, Tuner

TRAIN, TEST = 48, 48


def run(seed: int) -> dict[str, Any]:
    """LoRA in the upper two blocks for ten epochs; the trunk below is computed once."""
    train, test = speech.tones(TRAIN, seed=1), speech.tones(TEST, seed=2)
    with TemporaryDirectory() as place:
        folder = str(speech.whisper_folder(Path(place)))
        scores, seconds = {}, 0.0
        for when, method, rate in (("before", "head", 2e-2), ("after", LoRA(layers=(2, 3)), 1e-3)):
            tuner = Tuner(folder, task="audio-classification", method=method)
            settings = TrainConfig(epochs=10, batch_size=8, learning_rate=rate, seed=seed, progress="off")
            tuner.fit(train, config=settings)
            scores[when], seconds = dict(tuner.evaluate(test)), tuner.report.seconds
    return {
        "task": "audio-classification",
        "method": "lora",
        "backbone": "Whisper tiny.en, encoder",
        "data": "synthetic tones of four kinds",
        "synthetic": True,
        "rows": {"train": len(train), "test": len(test)},
        "scores": scores,
        "seconds": round(seconds, 1),
    }
