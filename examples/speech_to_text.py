"""What is said in a sound: here tones that have names, made here, written by an adapter on Whisper.

python examples/speech_to_text.py [BACKBONE]      a folder or hub id; by default Whisper tiny.en from the hub
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from petune import SpeechToText, TrainConfig, Tuner

RATE = 16_000
NAMES = {300.0: "low tone", 1200.0: "high tone"}


def rows(count: int) -> list[dict[str, Any]]:
    """Synthetic sounds as arrays with their rate; a table of paths does as well."""
    noise, time, made = np.random.default_rng(0), np.arange(RATE // 8) / RATE, []
    for index in range(count):
        pitch, name = list(NAMES.items())[index % 2]
        wave = 0.5 * np.sin(2 * np.pi * pitch * time) + 0.05 * noise.standard_normal(len(time))
        made.append({"audio": (wave, RATE), "text": name})
    return made


def main(backbone: str) -> None:
    tuner = Tuner(backbone, task=SpeechToText(max_new_tokens=8), method="lora", name="tones")
    tuner.fit(rows(8), config=TrainConfig(epochs=4, batch_size=4, learning_rate=2e-3))
    print(tuner.evaluate(rows(4)))  # loss and perplexity, and the error rates of what it writes

    with TemporaryDirectory() as folder:
        tuner.save(folder)
        loaded = Tuner.load(folder)  # knows its backbone, processor and first pieces
        sounds = [row["audio"] for row in rows(2)]
        print("greedy:", loaded.predict(sounds))
        print("with beams:", loaded.generate(sounds, num_beams=2))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "openai/whisper-tiny.en")
