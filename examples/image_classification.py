"""Pictures in class folders: circles and squares, drawn here, told apart by an adapter on a vision backbone.

python examples/image_classification.py [BACKBONE]      a folder or hub id; by default DINOv2-small from the hub
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

from petune import TrainConfig, Tuner


def draw(folder: Path, count: int) -> None:
    """Synthetic pictures: folder/circle/0.png, folder/square/1.png, ..."""
    chance = random.Random(0)
    for index in range(count):
        image = Image.new("RGB", (64, 64), (230, 230, 230))
        left, top, side = chance.randint(2, 20), chance.randint(2, 20), chance.randint(20, 40)
        pen, box, kind = ImageDraw.Draw(image), (left, top, left + side, top + side), ("circle", "square")[index % 2]
        (pen.ellipse if kind == "circle" else pen.rectangle)(
            box, fill=(200, 30, 30) if index % 4 < 2 else (30, 30, 200)
        )
        place = folder / kind
        place.mkdir(exist_ok=True)
        image.save(place / f"{index}.png")


def main(backbone: str) -> None:
    with TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        draw(photos, 40)
        tuner = Tuner(backbone, task="image-classification", method="lora", name="shapes")
        tuner.fit(photos, eval_data=0.2, config=TrainConfig(epochs=4, batch_size=8, learning_rate=2e-3))
        print(tuner.evaluate(photos))

        tuner.save(Path(place) / "adapter")
        loaded = Tuner.load(Path(place) / "adapter")  # knows its backbone, its image processor and its labels
        some = [photos / "circle" / "0.png", Image.new("L", (64, 64))]  # paths, pictures, arrays
        print(loaded.classes_, loaded.predict(some), loaded.predict_proba(some), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "facebook/dinov2-small")
