"""From a table of texts to an adapter that is trained, saved and loaded.

python examples/quickstart.py [BACKBONE]      a folder or hub id; by default all-MiniLM-L6-v2 from the hub
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory

from petune import TrainConfig, Tuner

# Written for this example; a real table has thousands of rows, and is usually a path: fit("train.csv").
ROWS = [
    {"text": "a warm and funny film with a great cast", "label": "good"},
    {"text": "two hours of nothing, i wanted to leave", "label": "bad"},
    {"text": "superb acting and a lovely story", "label": "good"},
    {"text": "a dull story told badly", "label": "bad"},
    {"text": "i enjoyed every minute of it", "label": "good"},
    {"text": "the jokes are old and the plot is awful", "label": "bad"},
    {"text": "moving, clever and beautifully filmed", "label": "good"},
    {"text": "a boring film that goes nowhere", "label": "bad"},
]


def main(backbone: str) -> None:
    tuner = Tuner(backbone, method="lora", name="mood")
    print(tuner.plan(ROWS))

    tuner.fit(ROWS, config=TrainConfig(epochs=10, batch_size=4))
    print(tuner.report)
    print(tuner.evaluate(ROWS))

    with TemporaryDirectory() as folder:
        tuner.save(folder)
        loaded = Tuner.load(folder)  # knows its backbone, task and labels
        texts = ["a lovely film", "an awful bore"]
        print(loaded.predict(texts), loaded.classes_, loaded.predict_proba(texts), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2")
