"""Training data that are legal and odd: the fit goes on, with one warning that says what, how often and where."""

from __future__ import annotations

from benchmarks.faults.data_kinds import (
    GOOD,
    PAIRS,
    PROMPTS,
    TAGGED,
    Kind,
    alone,
    file,
    labelled,
    rows,
    tagged,
    texted,
)
from petune import SequenceClassification, TokenClassification

LONG = "film " * 200_000
"""A text of a megabyte."""
WORD = "a" * 1_000_000
"""A word of a megabyte."""
TAGS = "token-classification"

ODD: tuple[Kind, ...] = (
    Kind(
        "one class only",
        alone(*(row | {"label": "good"} for row in GOOD)),
        "'label'",
        "no row.*'bad'",
        SequenceClassification(labels=("bad", "good")),
    ),
    Kind(
        "a named label that no row has",
        rows(),
        "'label'",
        "'ugly'",
        SequenceClassification(labels=("bad", "good", "ugly")),
    ),
    Kind("an empty text", texted(" "), "row 6", "1 of 7.*empty"),
    Kind(
        "an empty text in a csv", file("train.csv", "text,label\na film,good\n,bad\nthe house,bad\n"), "line 3", "empty"
    ),
    Kind("a text of zero-width characters", texted("\u200b\u200d"), "row 6", "empty"),
    Kind("a text of a megabyte", texted(LONG), "the data", r"1 of 7 rows were longer than 68 pieces.*200002"),
    Kind("a word of a megabyte", texted(f"the film {WORD}"), "row 6", "1,000,000 characters"),
    Kind("NUL characters", texted("a\0film"), "row 6", "NUL"),
    Kind(
        "NUL characters in jsonl",
        file("train.jsonl", '{"text": "a", "label": "b"}\n{"text": "c\\u0000", "label": "d"}'),
        "line 2",
        "NUL",
    ),
    Kind("mojibake", texted("the cafÃ© film donâ€™t"), "row 6", "wrong encoding"),
    Kind("mojibake of Cyrillic", texted("Ñ„Ð¸Ð»ÑŒÐ¼ film"), "row 6", "wrong encoding"),
    Kind("replacement characters", texted("caf\ufffd film"), "row 6", "wrong encoding"),
    Kind("same text with all labels", rows({"text": GOOD[0]["text"], "label": "bad"}), "row 6.*row 0", "other labels"),
    Kind(
        "same words with other tags",
        rows(TAGGED[1] | {"tags": ["O", "B-LOC", "O"]}, good=TAGGED),
        "row 4.*row 1",
        "other labels",
        TAGS,
    ),
    Kind("all pieces unknown", texted("你好 世界"), "row 6", "does not know"),
    Kind("rows twice", rows(GOOD[2], GOOD[3]), "row 6.*row 2", "2 rows.*twice"),
    Kind(
        "prompts twice", rows(PROMPTS[1], good=PROMPTS), "row 6.*row 1", "1 rows.*twice", "causal-lm", backbone="gpt2"
    ),
    Kind("pairs twice", rows(PAIRS[1], good=PAIRS), "row 6.*row 1", "1 rows.*twice", "seq2seq-lm", backbone="t5"),
    Kind("training rows in the evaluation", rows(), "row 0", "2 evaluation rows", evaluation=[GOOD[4], GOOD[5]]),
    Kind("empty words", tagged(["anna", "", "saw"], ["B-PER", "O", "O"]), "row 4.*word 1", "1 words.*no piece", TAGS),
    Kind(
        "a word longer than the limit",
        tagged(["x" * 30], ["O"]),
        "the data",
        "1 words alone were longer",
        TokenClassification(max_length=16),
    ),
    Kind("labels that differ in case", labelled("Good"), "'label'", "'Good' and 'good'"),
    Kind("a label called nan", labelled("nan"), "'label'", "'nan'.*missing"),
    Kind(
        "every number the same",
        alone(*(row | {"label": 0.5} for row in GOOD)),
        "'label'",
        "0.5",
        SequenceClassification(problem_type="regression"),
    ),
    Kind(
        "a target of a megabyte",
        rows({"source": "a house", "target": LONG}, good=PAIRS),
        "the data",
        "Targets in.*1 of 7",
        "seq2seq-lm",
        backbone="t5",
    ),
    Kind(
        "a completion of a megabyte",
        rows({"prompt": "a house", "completion": LONG}, good=PROMPTS),
        "the data",
        "1 of 7 rows were longer",
        "causal-lm",
        backbone="gpt2",
    ),
)
