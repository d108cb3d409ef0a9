"""The parts of `petune demo`, all made here: a tiny encoder with random weights, and rows of key words."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from petune.cli import comparing
from petune.cli.knob_options import Given
from petune.errors import PetuneError
from petune.lookup import names

KEYS = {
    "film": ("actor", "scene", "camera", "director", "story", "screen"),
    "sport": ("goal", "team", "match", "player", "league", "coach"),
    "money": ("bank", "market", "price", "trade", "stock", "loan"),
}
"""Label -> its key words; a row has three of them among words that say nothing."""
FILLER = (
    "the",
    "a",
    "an",
    "it",
    "was",
    "and",
    "we",
    "saw",
    "that",
    "with",
    "some",
    "old",
    "in",
    "his",
    "house",
    "today",
)
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TRAIN, TEST, SEED = 240, 90, 0
Say = Callable[[str], Any]


def make_parts(folder: Path) -> Path:
    """Writes `encoder/`, `train.csv` and `test.csv` into a folder."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from petune.model.backbone import quiet

    words = [*SPECIALS, *(word for keys in KEYS.values() for word in keys), *FILLER]
    ids = {word: index for index, word in enumerate(words)}
    engine = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(word, ids[word]) for word in ("[CLS]", "[SEP]")]
    )
    named = {f"{name.strip('[]').lower()}_token": name for name in SPECIALS}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=engine, model_max_length=32, **named)
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=32, initializer_range=0.2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(SEED)
        BertModel(config).save_pretrained(folder / "encoder")
        tokenizer.save_pretrained(folder / "encoder")
    draw = random.Random(SEED)
    for file, count in (("train.csv", TRAIN), ("test.csv", TEST)):
        with (folder / file).open("w", encoding="utf-8", newline="") as out:
            table = csv.writer(out)
            table.writerow(["text", "label"])
            table.writerows(_row(draw, index) for index in range(count))
    return folder


def demonstrate(folder: Path, epochs: int, tell: Say, say: Say) -> None:
    """Fits each method in turn, tells the table, and lets one adapter answer.

    Args:
        tell: is told the outcome.
        say: is told what begins.
    """
    from petune import Tuner

    tell(f"Synthetic rows ({TRAIN} to learn from, {TEST} to test on), an encoder of random weights, one seed.\n")
    given = {"train": str(folder / "train.csv"), "model": str(folder / "encoder"), "eval_data": 0.2}
    knobs: Given = {("epochs",): epochs, ("batch_size",): 8, ("progress",): "off"}
    found: list[dict[str, Any]] = []
    for method in names("methods"):
        arm = comparing.arm_of(method, None, given, dict(knobs))
        try:
            found += comparing.runs({method: arm}, 1, str(folder / "test.csv"), say)
        except PetuneError as error:  # one that must be told more, or that is for other tasks
            say(f"{method} is left out: {error.what}")
    tell(comparing.table(found))
    best = max(comparing.summary(found), key=lambda one: float(one["mean"]))["method"]
    tuner = comparing.arm_of(best, None, given, dict(knobs)).tuner()
    tuner.fit(given["train"], given["eval_data"], comparing.arm_of(best, None, given, dict(knobs)).config)
    saved = tuner.save(folder / "adapter")
    texts = ["the actor and the camera", "we saw a goal and the coach", "the price that the bank saw"]
    answers = Tuner.load(saved).predict(texts)
    tell(f"\nThe adapter by {best}, saved and loaded again:")
    for text, answer in zip(texts, answers, strict=True):
        tell(f"  {answer:6} {text}")


def _row(draw: random.Random, index: int) -> tuple[str, str]:
    label = list(KEYS)[index % len(KEYS)]
    words = [*draw.choices(FILLER, k=draw.randint(1, 3)), *draw.sample(KEYS[label], k=3)]
    draw.shuffle(words)
    return " ".join(words), label
