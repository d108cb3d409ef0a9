"""Texts as vectors: questions and answers that belong together come close, then search is a matrix product.

python examples/similarity.py [BACKBONE]
"""

from __future__ import annotations

import sys

import numpy as np

from petune import Similarity, TrainConfig, Tuner

ANSWERS = {
    "how do i get home": "the last bus leaves at ten",
    "when do you open": "we are here from nine to five",
    "my screen is dark": "hold the button for three seconds",
    "can i bring it back": "within two weeks, with the receipt",
    "where is my parcel": "the tracking number is in your mail",
    "i forgot my password": "a new one can be set by a link",
}


def main(backbone: str) -> None:
    rows = [{"question": question, "answer": answer} for question, answer in ANSWERS.items()] * 4
    # Pairs alone: the other answers of the micro-batch are the wrong ones, so its size matters.
    task = Similarity(text="question", text_pair="answer", max_length=32)
    tuner = Tuner(backbone, task=task, method="lora", name="search")
    tuner.fit(rows, config=TrainConfig(epochs=10, batch_size=6, learning_rate=2e-3))
    print(tuner.evaluate(rows))

    answers = list(ANSWERS.values())
    index = np.stack(tuner.predict(answers))  # (6, D), each of length 1
    [query] = tuner.predict(["my screen is dark"])
    print(f"Nearest: {answers[int((index @ query).argmax())]!r}; vectors of shape {index.shape}")
    [cosine] = tuner.predict([("when do you open", "we are here from nine to five")])
    print(f"A pair of texts has a cosine: {cosine:.2f}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["sentence-transformers/all-MiniLM-L6-v2"]))
