"""A dialogue: replies learnt turn by turn, then a conversation of two turns.

python examples/dialogue.py [BACKBONE]      a decoder
"""

from __future__ import annotations

import sys
import tempfile

from petune import Dialogue, TrainConfig, Tuner

REPLIES = {"Who are you?": "A robot.", "Do you sleep?": "Never.", "What do you eat?": "Electricity.", "Bye!": "Bye."}


def conversations() -> list[dict[str, list[dict[str, str]]]]:
    """Synthetic conversations of two questions each, in every order."""
    pairs = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in REPLIES.items()]
    return [{"messages": first + second} for first in pairs for second in pairs if first is not second]


def main(backbone: str) -> None:
    # The loss falls on both replies of a row; a tokenizer without a chat template is given a plain one.
    tuner = Tuner(backbone, task=Dialogue(max_new_tokens=16), method="lora", name="robot")
    tuner.fit(conversations(), config=TrainConfig(epochs=6, batch_size=4, learning_rate=2e-3))
    print(tuner.evaluate(conversations()[:4]))  # loss and perplexity; ROUGE and chrF of what it writes

    with tempfile.TemporaryDirectory() as folder:
        tuner.save(folder)
        robot = Tuner.load(folder, backbone=backbone)  # the chat template came along
    talk = [{"role": "user", "content": "Who are you?"}]
    talk.append({"role": "assistant", "content": robot.chat(talk) or "..."})
    talk.append({"role": "user", "content": "Do you sleep?"})
    print("reply:", robot.chat(talk, do_sample=True, temperature=0.7, seed=1))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["HuggingFaceTB/SmolLM2-135M-Instruct"]))
