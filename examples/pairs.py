"""Two texts a row to one label: does the second one follow from the first?

python examples/pairs.py [BACKBONE]
"""

from __future__ import annotations

import sys

from petune import SequenceClassification, TrainConfig, Tuner

PEOPLE, PLACES = ("Anna", "Boris", "Carla"), ("Paris", "Oslo", "Rome")


def rows() -> list[dict[str, str]]:
    """Synthetic rows: a statement and a claim, which says the same or not."""
    return [
        {
            "premise": f"{who} lives in {where}.",
            "claim": f"{who} is in {said}.",
            "label": "yes" if said == where else "no",
        }
        for who in PEOPLE
        for where in PLACES
        for said in PLACES
    ]


def main(backbone: str) -> None:
    # Two text columns, so both are named: no text is dropped in silence.
    task = SequenceClassification(text="premise", text_pair="claim", max_length=32)
    tuner = Tuner(backbone, task=task, method="lora", name="claims")
    tuner.fit(rows(), config=TrainConfig(epochs=8, batch_size=8, learning_rate=2e-3))
    print(tuner.evaluate(rows(), metrics=["matthews-correlation"]))

    print(tuner.predict([("Anna lives in Oslo.", "Anna is in Rome.")]))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["sentence-transformers/all-MiniLM-L6-v2"]))
