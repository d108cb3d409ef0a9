"""Sounds in class folders: low and high tones, made here, told apart by an adapter on a speech backbone.

python examples/audio_classification.py [BACKBONE]      a folder or hub id; by default wav2vec 2.0 base from the hub
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from petune import TrainConfig, Tuner

RATE = 8000
"""Of the files; the backbone's own is 16,000, so they are resampled, and petune says so."""


def tone(pitch: float, seconds: float, seed: int) -> np.ndarray:
    """A synthetic tone in noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    return 0.5 * np.sin(2 * np.pi * pitch * time) + 0.05 * np.random.default_rng(seed).standard_normal(len(time))


def record(folder: Path, count: int) -> None:
    """folder/high/0.wav, folder/low/1.wav, ..."""
    for index in range(count):
        kind, pitch = (("high", 1500.0), ("low", 300.0))[index % 2]
        place = folder / kind
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{index}.wav", tone(pitch + 5 * index, 0.1 + 0.002 * index, index), RATE)


def main(backbone: str) -> None:
    with TemporaryDirectory() as place:
        clips = Path(place) / "clips"
        record(clips, 24)
        tuner = Tuner(backbone, task="audio-classification", method="lora", name="pitch")
        tuner.fit(clips, config=TrainConfig(epochs=6, batch_size=8, learning_rate=5e-3))
        print(tuner.report)
        print(tuner.evaluate(clips))

        tuner.save(Path(place) / "adapter")
        loaded = Tuner.load(Path(place) / "adapter")  # knows its backbone, its extractor, labels and length
        some = [clips / "high" / "0.wav", (tone(320.0, 0.1, 99), RATE)]  # a file, or an array with its rate
        print(loaded.classes_, loaded.predict(some), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "facebook/wav2vec2-base")
