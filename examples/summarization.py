"""Summaries: a report and its headline; scored by ROUGE, written greedily and with beams.

python examples/summarization.py [BACKBONE]      an encoder-decoder
"""

from __future__ import annotations

import sys

from petune import Summarization, TrainConfig, Tuner

WHO, WHAT, WHERE = ("Anna", "Boris", "Carla"), ("a race", "a prize"), ("Paris", "Oslo")


def reports() -> list[dict[str, str]]:
    """Synthetic reports of three sentences, the first of which is news."""
    return [
        {"document": f"{who} won {what} in {where}. It rained all day. Many came to see it.",
         "summary": f"{who} won {what}"}
        for who in WHO for what in WHAT for where in WHERE
    ]  # fmt: skip


def main(backbone: str) -> None:
    task = Summarization(source="document", target="summary", max_new_tokens=16)
    tuner = Tuner(backbone, task=task, method="lora", name="news")
    tuner.fit(reports(), eval_data=0.25, config=TrainConfig(epochs=6, batch_size=4, learning_rate=2e-3))
    print(tuner.evaluate(reports()))  # loss, perplexity, and ROUGE of what it writes

    text = "Boris won a race in Oslo. It was late. Few came."
    print("greedy:", tuner.predict([text])[0])
    print("with beams:", tuner.generate([text], num_beams=3, length_penalty=0.8)[0])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["google-t5/t5-small"]))
