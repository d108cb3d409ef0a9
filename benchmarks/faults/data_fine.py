"""Training data that look unusual and are right: accepted without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.faults.data_kinds import (
    CONLL,
    CSV,
    GOOD,
    JSONL,
    PAIRS,
    PROMPTS,
    TAGGED,
    TEXTS,
    Kind,
    alone,
    dataset,
    file,
    frame,
    rows,
)
from petune import SequenceClassification

TAGS = "token-classification"
NUMBERS = SequenceClassification(problem_type="regression")


def _csv(name: str, content: str | bytes) -> Kind:
    return Kind(name, file("train.csv", content))


def _parquet(folder: Path) -> Path:
    import pandas

    path = folder / "train.parquet"
    pandas.DataFrame(list(GOOD)).to_parquet(path)
    return path


def _nullable(made: Any) -> Any:
    import pandas

    made["label"] = pandas.Categorical(made["label"])
    made["rank"] = pandas.array([1, pandas.NA, 3, 4, 5, 6], dtype="Int64")
    return made[made["text"].str.len() > 10]


def _classes(made: Any) -> Any:
    import datasets

    named = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    return datasets.Dataset.from_list([row | {"label": n % 2} for n, row in enumerate(made)], features=named)


def _arrays(folder: Path) -> Any:
    import numpy

    return numpy.array([text for text, _ in TEXTS]), numpy.array([0, 1] * 3)


def _label(*labels: Any) -> Any:
    return alone(*({"text": row["text"], "label": label} for row, label in zip(GOOD, labels, strict=True)))


FINE: tuple[Kind, ...] = (
    _csv("byte order mark", b"\xef\xbb\xbf" + CSV.encode()),
    _csv("CR line ends", CSV.replace("\n", "\r")),
    _csv("CRLF line ends", CSV.replace("\n", "\r\n")),
    _csv("blank lines at the end", CSV + "\n\r\n\n"),
    _csv("no line end at the end", CSV.rstrip("\n")),
    _csv("newlines in quotes", CSV + '"a\nnew\r\nline, and ""quotes""",good\n'),
    _csv("texts called NA, null and nan", CSV + "NA,good\nnull,bad\nnan,good\nNone,bad\n"),
    _csv("texts of digits", "text,label\n12345,good\n678,bad\n90,good\n"),
    _csv("unused columns", "id,text,note,label\n1,a film,,good\n2,the house,x,bad\n"),
    _csv("white space around labels", "text,label\na film, good\nthe house,bad \na man,good\n"),
    _csv("whole numbers as floats", "text,label\na film,4.0\nthe house,3\nthe man,4\n"),
    _csv("unicode", "text,label\nПривет film,да\n映画 film,нет\nשלום film,да\ncafe\u0301 🎬 film,нет\n"),
    Kind("upper-case ending", file("TRAIN.CSV", CSV)),
    Kind("spaces and unicode in the path", file("my däta (1)/träin 1.csv", CSV)),
    Kind("path as a str", lambda folder: str(file("train.csv", CSV)(folder))),
    Kind("tsv with commas", file("train.tsv", "text\tlabel\na film, old\tgood\nthe house\tbad\n")),
    Kind("jsonl with blank lines", file("train.jsonl", JSONL.replace("\n", "\n\n") + "\n")),
    Kind("json with an indent", file("train.json", json.dumps(list(GOOD), indent=2))),
    Kind("parquet", _parquet),
    Kind(
        "CoNLL with markers and CRLF",
        file("train.conll", "-DOCSTART- O\r\n\r\n" + CONLL.replace("\n", "\r\n")),
        task=TAGS,
    ),
    Kind("words as a string", alone(*({k: " ".join(v) for k, v in row.items()} for row in TAGGED)), task=TAGS),
    Kind("tags as numbers", alone({"tokens": ["a", "b"], "tags": [0, 1]}, {"tokens": ["c"], "tags": [0]}), task=TAGS),
    Kind("bool labels", _label(True, False, True, False, True, False)),
    Kind("labels of -1, 0 and 1", _label(-1, 0, 1, -1, 0, 1)),
    Kind("rows of no label at all", _label(["a"], [], ["a", "b"], ["b"], [], ["a"])),
    Kind(
        "labels with a separator",
        _label("a|b", "a", "", "b", "a|b", "b"),
        task=SequenceClassification(label_separator="|"),
    ),
    Kind("numbers as strings", _label("1.5", "2", "-3", "0", "4.25", "1e2")),
    Kind("whole numbers to foretell", _label(1, 2, 3, 4, 5, 6), task=NUMBERS),
    Kind("frame with categories and gaps", frame(_nullable)),
    Kind("Dataset with class names", dataset(_classes)),
    Kind("a pair of arrays", _arrays),
    Kind("an evaluation file", rows(), evaluation=file("test.csv", "text,label\na house,bad\n")),
    Kind("prompts and completions", rows(good=PROMPTS), task="causal-lm", backbone="gpt2"),
    Kind("texts to write", alone(*({"text": text} for text, _ in TEXTS)), task="causal-lm", backbone="gpt2"),
    Kind("sources and targets", rows(good=PAIRS), task="seq2seq-lm", backbone="t5"),
)
