"""Few-shot: a language model tells labels by words, before it has learnt and after four rows of each class.

python examples/few_shot.py [BACKBONE]      a causal language model
"""

from __future__ import annotations

import sys

from petune import PromptClassification, TrainConfig, Tuner

GOOD, BAD = ("lovely", "superb", "enjoyed"), ("boring", "dull", "hated")
FORMS = ("a {} film", "we saw a {} story", "the old man was {} today", "that film was {}", "some {} story it was")


def rows() -> list[dict[str, str]]:
    """Synthetic rows of text and label, made from the words above."""
    known = {"good": GOOD, "bad": BAD}
    return [{"text": form.format(word), "label": label} for form in FORMS for label in known for word in known[label]]


def main(backbone: str) -> None:
    task = PromptClassification(
        template="{text} it was {mask}",
        verbalizer={"good": "great", "bad": "awful"},
        model="causal",
        shots=4,
    )
    tuner = Tuner(backbone, task=task, name="mood").zero_shot()
    print(f"zero-shot accuracy {tuner.evaluate(rows())['accuracy']:.2f}")
    tuner.fit(rows(), config=TrainConfig(epochs=10, batch_size=4, seed=1))
    print(f"few-shot accuracy {tuner.evaluate(rows())['accuracy']:.2f}")
    print(tuner.classes_, tuner.predict(["a superb film", "a dull story"]))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["HuggingFaceTB/SmolLM2-135M-Instruct"]))
