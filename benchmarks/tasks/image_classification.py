"""Image classification: 10 garments of Fashion-MNIST from 600 pictures, with DINOv2-small at 112 pixels.

The pictures are 28 by 28 pixels of grey, enlarged; the test rows are the first of the set's own test part. `before` is
the head alone on the frozen backbone, trained with the same settings but for its learning rate.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import pictures
from petune import TrainConfig, Tuner

TRAIN, TEST = 600, 400


def run(seed: int) -> dict[str, Any]:
    """LoRA for four epochs."""
    train, test = pictures.fashion_mnist("train", TRAIN), pictures.fashion_mnist("t10k", TEST)
    with TemporaryDirectory() as place:
        folder = str(pictures.dinov2_folder(Path(place)))
        scores, seconds = {}, 0.0
        for when, method, rate in (("before", "head", 5e-3), ("after", "lora", 1e-3)):
            tuner = Tuner(folder, task="image-classification", method=method)
            settings = TrainConfig(epochs=4, batch_size=16, learning_rate=rate, seed=seed, progress="off")
            tuner.fit(train, config=settings)
            scores[when], seconds = dict(tuner.evaluate(test)), tuner.report.seconds
    return {
        "task": "image-classification",
        "method": "lora",
        "backbone": "DINOv2-small",
        "data": "Fashion-MNIST, 112 pixels",
        "synthetic": False,
        "rows": {"train": len(train), "test": len(test)},
        "scores": scores,
        "seconds": round(seconds, 1),
    }
