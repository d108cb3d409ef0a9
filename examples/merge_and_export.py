"""Writes an adapter into its backbone, and saves a model that needs no petune; and the same adapter read by peft.

python examples/merge_and_export.py [BACKBONE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from petune import LoRA, TrainConfig, Tuner

TEXTS = ["a great film", "a lovely story", "an awful film", "a boring story"]
LABELS = ["good", "good", "bad", "bad"]


def main(backbone: str, folder: Path) -> None:
    tuner = Tuner(backbone, method=LoRA(rank=4, targets=("query", "value")))
    tuner.fit((TEXTS, LABELS), config=TrainConfig(epochs=10, batch_size=2, progress="off"))
    answers = tuner.predict(TEXTS)

    # 1. Merged: a plain transformers folder with the labels in its configuration.
    model = tuner.merged_copy()  # merge() does it in place, unmerge() puts the original bits back
    print(tuner.merge_receipt)
    model.save_pretrained(folder / "merged")
    tuner.tokenizer.save_pretrained(folder / "merged")
    classify = pipeline("text-classification", str(folder / "merged"))
    print([found["label"] for found in classify(TEXTS)] == answers)

    # 2. Unmerged: the adapter folder is peft's own layout as well, head included.
    tuner.save(folder / "adapter")
    print(sorted(path.name for path in (folder / "adapter").iterdir()))
    from peft import PeftModel

    plain = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=len(tuner.classes_))
    other = PeftModel.from_pretrained(plain, folder / "adapter").eval()
    inputs = AutoTokenizer.from_pretrained(backbone)(TEXTS, padding=True, return_tensors="pt")
    best = other(**inputs).logits.argmax(-1).tolist()
    print([tuner.classes_[index] for index in best] == answers)


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        main(sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2", Path(place))
