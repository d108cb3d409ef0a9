"""A translation: pairs of sentences, scored by BLEU, chrF and ROUGE; greedy and with beams.

python examples/translation.py [BACKBONE]      an encoder-decoder
"""

from __future__ import annotations

import sys

from petune import TrainConfig, Translation, Tuner

WORDS = {"a man": "un homme", "a house": "une maison", "a film": "un film", "a party": "une fête"}
FORMS = (("we saw {}", "nous avons vu {}"), ("it was {}", "c'était {}"), ("today {}", "aujourd'hui {}"))


def pairs() -> list[dict[str, dict[str, str]]]:
    """Synthetic rows in the form of the hub's data sets, made from the words above."""
    return [
        {"translation": {"en": english.format(word), "fr": french.format(other)}}
        for english, french in FORMS
        for word, other in WORDS.items()
    ]


def main(backbone: str) -> None:
    task = Translation(source_language="en", target_language="fr", max_new_tokens=24, generation={"num_beams": 3})
    tuner = Tuner(backbone, task=task, method="lora", name="en-fr")
    # While it learns, each evaluation also writes the held-out rows, and chrF chooses the epoch that is kept.
    config = TrainConfig(epochs=4, batch_size=4, learning_rate=2e-3, metrics=("chrf",), metric="chrf")
    tuner.fit(pairs(), eval_data=0.2, config=config)
    print(tuner.evaluate(pairs(), generate=False))  # loss and perplexity alone: a forward for each row
    print(tuner.evaluate(pairs()))  # and the scores of what it writes

    print("with beams:", tuner.predict(["we saw a house"])[0])
    print("greedy:", tuner.generate(["we saw a house"], num_beams=1)[0])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["Helsinki-NLP/opus-mt-en-fr"]))
