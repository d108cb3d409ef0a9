"""Three learning rates tried at once on one backbone, and the best adapter kept.

python examples/rate_sweep.py [BACKBONE]
"""

from __future__ import annotations

import sys

from transformers import AutoModel, AutoTokenizer

from petune import Job, TrainConfig, Tuner, fit_many

WORDS = {"good": ("great", "lovely", "superb"), "bad": ("awful", "boring", "dull")}
ROWS = [
    {"text": f"{start} {word} film", "label": label}
    for label, words in WORDS.items()
    for word in words
    for start in ("a", "what a", "it was a", "we saw a")
]


def main(backbone: str) -> None:
    model, tokenizer = AutoModel.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
    jobs = [
        Job(
            Tuner(model, method="lora", name=f"rate-{rate:g}", tokenizer=tokenizer),
            ROWS,
            eval_data=0.25,
            config=TrainConfig(epochs=6, batch_size=4, learning_rate=rate, metric="loss", patience=2, progress="off"),
        )
        for rate in (1e-4, 1e-3, 1e-2)
    ]
    # Each run has its own optimizer, schedule and early stop; a forward of the backbone takes a batch of each.
    tuners = fit_many(jobs)
    for tuner in tuners:
        print(f"{tuner.name}: loss {tuner.report.best['loss']:.3f} after step {tuner.report.best_step}")

    best = min(tuners, key=lambda tuner: tuner.report.best["loss"])
    print("The best one is", best.name)
    print(best.predict(["a superb film", "a dull film"]))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2")
