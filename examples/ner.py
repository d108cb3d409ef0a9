"""Names in sentences: one tag per word, scored by whole spans.

python examples/ner.py [BACKBONE] [TRAIN.conll TEST.conll]      two CoNLL files, or the sentences below
"""

from __future__ import annotations

import sys
from typing import Any

from petune import TokenClassification, TrainConfig, Tuner

PEOPLE, PLACES = ("Anna", "Boris Lane", "Carla"), ("Paris", "Oslo", "New York")
FORMS = ("{who} lives in {where} .", "we saw {who} at a bank in {where} .", "{where} is where {who} works .")


def sentences() -> list[dict[str, list[str]]]:
    """Synthetic rows of words and BIO tags, made from the names above."""
    return [tagged(form, {"who": who, "where": where}) for form in FORMS for who in PEOPLE for where in PLACES]


def tagged(form: str, names: dict[str, str]) -> dict[str, list[str]]:
    """One sentence; the first word of a name is B-, the others are I-."""
    tokens: list[str] = []
    tags: list[str] = []
    for word in form.split():
        kind = {"{who}": "PER", "{where}": "LOC"}.get(word)
        words = names[word.strip("{}")].split() if kind else [word]
        tokens += words
        tags += [f"{'I' if index else 'B'}-{kind}" if kind else "O" for index in range(len(words))]
    return {"tokens": tokens, "tags": tags}


def main(backbone: str, train: Any = None, test: Any = None) -> None:
    train = train or sentences()
    task = TokenClassification(max_length=64)
    tuner = Tuner(backbone, task=task, method="lora", name="names")
    # 0.2: a fifth of the rows is held out, and the epoch that does best on it is kept.
    tuner.fit(train, eval_data=0.2, config=TrainConfig(epochs=8, batch_size=4))
    print(tuner.evaluate(test or train))

    words = ["Carla", "met", "Anna", "in", "New", "York", "."]
    for word, tag in zip(words, tuner.predict([words])[0], strict=True):
        print(f"{word:8} {tag}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["sentence-transformers/all-MiniLM-L6-v2"]))
