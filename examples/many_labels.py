"""Several labels for one text, and a number for one text: one task, two columns.

python examples/many_labels.py [BACKBONE]
"""

from __future__ import annotations

import sys

from petune import SequenceClassification, TrainConfig, Tuner

PARTS = {"plot": "a story that grips", "actors": "faces one believes", "music": "songs that stay"}


def reviews() -> list[dict[str, object]]:
    """Synthetic reviews: a list of what is praised, which may be all three, and the stars for it."""
    praised = [[name for bit, name in enumerate(PARTS) if number >> bit & 1] for number in range(1, 8)]
    return [
        {"text": ", ".join(PARTS[name] for name in some) + end, "praised": some, "stars": 1.5 + len(some)}
        for some in praised
        for end in ("", " all evening")
    ]


def main(backbone: str) -> None:
    config = TrainConfig(epochs=6, batch_size=4, learning_rate=2e-3)
    # Lists in the column of labels: each label is decided by itself, so several answers or none may come.
    praise = Tuner(backbone, task=SequenceClassification(label="praised"), method="lora", name="praise")
    praise.fit(reviews(), config=config)
    print(praise.evaluate(reviews()))
    print("praised:", praise.predict(["songs that stay, a story that grips"])[0])

    # Numbers with fractions: a regression.
    stars = Tuner(backbone, task=SequenceClassification(label="stars"), method="lora", name="stars")
    stars.fit(reviews(), config=config)
    print(stars.evaluate(reviews()))
    print(f"stars: {stars.predict(['songs that stay'])[0]:.1f}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["sentence-transformers/all-MiniLM-L6-v2"]))
