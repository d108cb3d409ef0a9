"""What a kind of training data is, and the good rows that it spoils."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["refuse", "warn", "accept"]
Give = Callable[[Path], Any]
"""A fresh folder to what is passed to `fit`, such as the path of a file in it."""


@dataclass(frozen=True)
class Kind:
    """One kind of training data, and what must become of it.

    Args:
        name: for reports.
        give: makes the data.
        where: a pattern for the place that the message must name: the file and its line, the row, the column.
        cause: a pattern for what is wrong.
        task: a name or an instance.
        evaluation: `eval_data`, or what makes it in the folder.
        backbone: which tiny model is trained; `"few pieces"`: a BERT that knows fewer pieces than its tokenizer.
    """

    name: str
    give: Give
    where: str = ""
    cause: str = ""
    task: Any = "sequence-classification"
    evaluation: Any = None
    backbone: Literal["bert", "gpt2", "t5", "few pieces"] = "bert"


TEXTS = (
    ("a great film with superb men", "good"),
    ("it was an awful old house", "bad"),
    ("we saw a lovely story today", "good"),
    ("the story was dull", "bad"),
    ("he enjoyed the film", "good"),
    ("that boring man", "bad"),
)
GOOD: tuple[dict[str, Any], ...] = tuple({"text": text, "label": label} for text, label in TEXTS)
TAGGED: tuple[dict[str, Any], ...] = (
    {"tokens": ["anna", "saw", "paris"], "tags": ["B-PER", "O", "B-LOC"]},
    {"tokens": ["the", "old", "house"], "tags": ["O", "O", "O"]},
    {"tokens": ["boris", "carla", "saw", "oslo"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]},
    {"tokens": ["a", "story"], "tags": ["O", "O"]},
)
PROMPTS: tuple[dict[str, Any], ...] = tuple({"prompt": text, "completion": f" {label}"} for text, label in TEXTS)
PAIRS: tuple[dict[str, Any], ...] = tuple({"source": text, "target": f"it was {label}"} for text, label in TEXTS)
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in TEXTS)
"""A header and lines 2 to 7."""
TSV = CSV.replace(",", "\t")
JSONL = "".join(json.dumps(row) + "\n" for row in GOOD)
"""Lines 1 to 6."""
CONLL = "\n".join("".join(f"{w} {t}\n" for w, t in zip(r["tokens"], r["tags"], strict=True)) for r in TAGGED)
"""Lines 1 to 15, with a blank line after each sentence but the last."""


def file(name: str, content: str | bytes) -> Give:
    """A file in the folder; text is written as it is."""

    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows(*extra: Any, good: tuple[Mapping[str, Any], ...] = GOOD) -> Give:
    """The good rows, counted from 0, and more."""
    return lambda folder: [*map(dict, good), *extra]


def alone(*given: Any) -> Give:
    """These rows only."""
    return lambda folder: list(given)


def labelled(label: Any, good: tuple[Any, ...] = GOOD) -> Give:
    """The good rows, and row 6 with this label."""
    return rows({"text": "a film", "label": label}, good=good)


def texted(text: Any) -> Give:
    """The good rows, and row 6 with this text."""
    return rows({"text": text, "label": "bad"})


def tagged(tokens: Any, tags: Any) -> Give:
    """The good rows of words, and row 4 with these."""
    return rows({"tokens": tokens, "tags": tags}, good=TAGGED)


def scored(label: Any) -> Give:
    """Five rows with numbers, and row 5 with this label."""
    return lambda folder: [
        *({"text": row["text"], "label": 0.5 + place} for place, row in enumerate(GOOD[:5])),
        {"text": "a film", "label": label},
    ]


def frame(change: Callable[[Any], Any] = lambda made: made) -> Give:
    """A DataFrame of the good rows, changed."""

    def make(folder: Path) -> Any:
        import pandas

        return change(pandas.DataFrame(list(GOOD)))

    return make


def dataset(change: Callable[[Any], Any] = lambda made: made) -> Give:
    """A `datasets.Dataset` of the good rows, changed."""

    def make(folder: Path) -> Any:
        import datasets

        return change(datasets.Dataset.from_list(list(map(dict, GOOD))))

    return make
