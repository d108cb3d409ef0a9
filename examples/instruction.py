"""Instructions: a question and its answer in two columns; the loss falls on the answer alone.

python examples/instruction.py [BACKBONE]      a decoder
"""

from __future__ import annotations

import sys

from petune import Instruction, TrainConfig, Tuner

CAPITALS = {"France": "Paris", "Norway": "Oslo", "Italy": "Rome", "Spain": "Madrid", "Peru": "Lima"}
FORMS = ("What is the capital of {}?", "Name the capital of {}.", "{}: which city is its capital?")


def rows() -> list[dict[str, str]]:
    """Synthetic instructions, made from the words above."""
    return [{"prompt": form.format(land), "response": city} for land, city in CAPITALS.items() for form in FORMS]


def main(backbone: str) -> None:
    task = Instruction(system="You answer in one word.", max_new_tokens=8)
    tuner = Tuner(backbone, task=task, method="lora", name="capitals")
    tuner.fit(rows(), eval_data=0.2, config=TrainConfig(epochs=6, batch_size=4, learning_rate=2e-3))
    print(tuner.evaluate(rows()[:4]))  # loss and perplexity; ROUGE and chrF of what it writes

    print("answer:", tuner.predict(["What is the capital of Peru?"])[0])
    print("reply:", tuner.chat("Name the capital of Italy.", do_sample=True, temperature=0.7, seed=1))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["HuggingFaceTB/SmolLM2-135M-Instruct"]))
