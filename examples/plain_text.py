"""Plain text: a language model goes on learning from lines, packed into full blocks without waste.

python examples/plain_text.py [BACKBONE]      a decoder
"""

from __future__ import annotations

import sys

from petune import CausalLM, TrainConfig, Tuner

LINES = ("the moon is far and cold .", "the sun is near and warm .", "a star is a sun that is far .")


def main(backbone: str) -> None:
    # Blocks of 32 tokens: texts are joined end to end, so that no position is padding.
    tuner = Tuner(backbone, task=CausalLM(packing=True, max_length=32), method="lora", name="sky")
    print(tuner.plan(list(LINES) * 20, timed=False))
    tuner.fit(list(LINES) * 20, eval_data=0.2, config=TrainConfig(epochs=4, batch_size=4, learning_rate=2e-3))
    print("padding:", tuner.report.padding_share)
    print(tuner.evaluate(list(LINES)))  # loss and perplexity

    print("goes on:", tuner.generate(["the moon is"], max_new_tokens=8)[0])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["HuggingFaceTB/SmolLM2-135M"]))
