"""Answers out of a text, or none: SQuAD-like rows, each answer with its place in the context.

python examples/question_answering.py [BACKBONE] [TRAIN.json TEST.json]     files in SQuAD's form, or the rows below
"""

from __future__ import annotations

import sys
from typing import Any

from petune import QuestionAnswering, TrainConfig, Tuner

PEOPLE, PLACES = ("Anna", "Boris Lane", "Carla"), ("Paris", "Oslo", "New York")
FORMS = ("{who} works in {where} .", "We saw {who} in {where} today .", "In {where} lives {who} .")


def rows() -> list[dict[str, Any]]:
    """Synthetic rows: who is in a text, where, and a question that it does not answer."""
    made = []
    for form in FORMS:
        for who in PEOPLE:
            for where in PLACES:
                context = form.format(who=who, where=where)
                made.append(row("Who is there?", context, who))
                made.append(row("Which place is it?", context, where))
    made += [row("How much did it cost?", made[index]["context"], None) for index in range(0, len(made), 4)]
    return made


def row(question: str, context: str, answer: str | None) -> dict[str, Any]:
    """A row as SQuAD has it; without an answer both lists are empty."""
    texts = [] if answer is None else [answer]
    answers = {"text": texts, "answer_start": [context.index(text) for text in texts]}
    return {"question": question, "context": context, "answers": answers}


def main(backbone: str, train: Any = None, test: Any = None) -> None:
    train = train or rows()
    # A context of more than 64 pieces is read in windows, of which each shares 16 with the one before it.
    task = QuestionAnswering(max_length=64, stride=16)
    tuner = Tuner(backbone, task=task, method="lora", name="answers")
    tuner.fit(train, config=TrainConfig(epochs=8, batch_size=8, learning_rate=2e-3))
    print(tuner.evaluate(test or train))

    context = "Yesterday we saw Carla in Oslo today ."
    for question in ("Who is there?", "Which place is it?"):
        [answer] = tuner.predict([(question, context)])
        print(f"{question} {answer!r} at {answer.start}:{answer.end}, probability {answer.score:.2f}")
        assert context[answer.start : answer.end] == answer


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["sentence-transformers/all-MiniLM-L6-v2"]))
