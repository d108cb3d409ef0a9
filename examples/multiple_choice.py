"""One of several options: rows with two to four of them, answered by the text of the best.

python examples/multiple_choice.py [BACKBONE]
"""

from __future__ import annotations

import sys
from typing import Any

from petune import MultipleChoice, TrainConfig, Tuner

KINDS = {"fruit": ("apple", "pear", "plum"), "animal": ("horse", "cat", "hen"), "tool": ("hammer", "saw", "axe")}


def rows() -> list[dict[str, Any]]:
    """Synthetic rows: what a word is, with the other kinds as wrong options."""
    made = []
    for kind, words in KINDS.items():
        for index, word in enumerate(words):
            wrong = [other for other in KINDS if other != kind][: 1 + index % 2]
            options = sorted([kind, *wrong])
            made.append({"question": f"What is a {word}?", "options": options, "answer": options.index(kind)})
    return made * 3


def main(backbone: str) -> None:
    tuner = Tuner(backbone, task=MultipleChoice(max_length=32), method="lora", name="choices")
    tuner.fit(rows(), config=TrainConfig(epochs=8, batch_size=8, learning_rate=2e-3))
    print(tuner.evaluate(rows()))

    asked = ("What is a cat?", ["tool", "animal", "fruit"])  # the order and number of options are free
    [answer], [shares] = tuner.predict([asked]), tuner.predict_proba([asked])
    told = [f"{option} {share:.2f}" for option, share in zip(asked[1], shares, strict=True)]
    print(f"A cat is: {answer} ({', '.join(told)})")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["sentence-transformers/all-MiniLM-L6-v2"]))
