"""Sentiment told by words: SmolLM2-135M-Instruct says "great" or "terrible" after a review.

Before it has learnt anything (zero-shot), and after 16 rows of each class. The reviews are those of
`real_data.sentiment` (Hutto & Gilbert 2014). The backbone is the one of `real_data.decoder_folder`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import real_data
from petune import LoRA, PromptClassification, TrainConfig, Tuner

TEST, SHOTS = 300, 16
TEMPLATE = "Review: {text}\nAll in all, the film was {mask}"
WORDS = {"positive": "great", "negative": "terrible"}


def run(seed: int) -> dict[str, Any]:
    """The same test rows zero-shot and after LoRA on 32 rows; the larger class is about half of the test part."""
    parts = real_data.sentiment()
    test = parts["test"][:TEST]
    task = PromptClassification(template=TEMPLATE, verbalizer=WORDS, model="causal", shots=SHOTS)
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=2e-4, seed=seed, progress="off")
    with tempfile.TemporaryDirectory() as place:
        tuner = Tuner(str(real_data.decoder_folder(Path(place))), task=task, method=LoRA(targets=("query", "value")))
        before = dict(tuner.zero_shot().evaluate(test))
        after = dict(tuner.fit(parts["train"], config=config).evaluate(test))
        seconds = tuner.report.seconds
    return {
        "task": "prompt-classification",
        "method": "lora",
        "backbone": "SmolLM2-135M-Instruct",
        "data": "movie-review snippets",
        "synthetic": False,
        "rows": {"train": SHOTS * len(WORDS), "test": len(test)},
        "scores": {"before": before, "after": after},
        "seconds": round(seconds, 1),
        "template": TEMPLATE,
        "verbalizer": WORDS,
    }
