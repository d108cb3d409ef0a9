"""Two adapters of different methods and label sets on one backbone, in one batch.

python examples/many_tasks_one_backbone.py [BACKBONE]
"""

from __future__ import annotations

import sys

import torch

from petune import AdaptedModel, TrainConfig, Tuner

MOODS = ([f"{word} film" for word in ("a great", "a lovely", "a boring", "an awful")], ["good", "good", "bad", "bad"])
KINDS = (
    ["who is that man", "who was elected", "where is the house", "where was it", "when was the match", "when is it"],
    ["person", "person", "place", "place", "time", "time"],
)


def main(backbone: str) -> None:
    config = TrainConfig(epochs=10, batch_size=2, progress="off")
    moods = Tuner(backbone, method="lora").fit(MOODS, config=config)
    kinds = Tuner(backbone, method="bottleneck").fit(KINDS, config=config)

    # add() takes a saved folder just as well: model.add("mood", "adapters/mood")
    model = AdaptedModel(backbone).add("mood", moods).add("kind", kinds)
    print(model.names)

    # Texts in, labels out; each row is answered by its own adapter, in the labels of that adapter.
    texts = ["a lovely film", "who was that", "an awful film"]
    print(model.predict(texts, adapters=["mood", "kind", "mood"]))

    # Tensors in, logits out. The route travels with the call; None is the bare backbone.
    inputs = model.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        routed = model(**inputs, route=["mood", "kind", None])
        print([None if logits is None else tuple(logits.shape) for logits in routed.logits])

        before = model(**inputs, route="mood").logits
        model(**inputs, route="kind")
        print("A, B, A bit-equal:", torch.equal(before, model(**inputs, route="mood").logits))

    model.use("kind")  # for calls that name no route
    print(model.predict(["where is the bank"]))
    model.remove("mood")
    print(model.names)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2")
