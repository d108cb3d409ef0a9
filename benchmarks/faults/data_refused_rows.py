"""Single cells, columns of labels, and settings that must be refused before the first optimizer step."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.faults.data_kinds import (
    GOOD,
    PAIRS,
    PROMPTS,
    TAGGED,
    Kind,
    alone,
    dataset,
    frame,
    labelled,
    rows,
    scored,
    tagged,
    texted,
)
from petune import SequenceClassification, TokenClassification

TAGS = "token-classification"
NUMBERS = SequenceClassification(problem_type="regression")
MULTI: tuple[dict[str, Any], ...] = tuple({"text": row["text"], "label": [row["label"]]} for row in GOOD)
WHOLE: tuple[dict[str, Any], ...] = tuple({"text": row["text"], "label": n % 2} for n, row in enumerate(GOOD))


def _without(column: str) -> Any:
    def change(made: Any) -> Any:
        made.loc[3, column] = None
        return made

    return change


def _classes(made: Any) -> Any:
    import datasets

    named = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    given = [row | {"label": -1 if n == 2 else n % 2} for n, row in enumerate(made)]
    return datasets.Dataset.from_list(given, features=named)


TEXT: tuple[Kind, ...] = (
    Kind("text is None", texted(None), "row 6.*'text'", "missing"),
    Kind("text is NaN", texted(math.nan), "row 6.*'text'", "missing"),
    Kind("text is a number", texted(3), "row 6.*'text'", "3, a int"),
    Kind("text is bytes", texted(b"a film"), "row 6.*'text'", "a bytes"),
    Kind("text is a list", texted(["a", "film"]), "row 6.*'text'", "a list"),
    Kind("half a character in a text", texted("a \ud83d film"), "row 6.*'text'", "surrogate"),
    Kind("all texts empty", alone(*({"text": " ", "label": n % 2} for n in range(4))), "the data.*'text'", "empty"),
    Kind("pieces that the backbone lacks", rows(), "row 0", "piece [0-9]+.*20", backbone="few pieces"),
    Kind("missing text in a frame", frame(_without("text")), "row 3.*'text'", "missing"),
    Kind(
        "missing second text",
        alone(*(row | {"text_pair": "a house"} for row in GOOD), {"text": "a", "text_pair": None, "label": "bad"}),
        "row 6.*'text_pair'",
        "missing",
        SequenceClassification(text_pair="text_pair"),
    ),
)
LABEL: tuple[Kind, ...] = (
    Kind("label is None", labelled(None), "row 6.*'label'", "missing"),
    Kind("label is NaN", labelled(math.nan, WHOLE), "row 6.*'label'", "missing"),
    Kind("label is an empty string", labelled(""), "row 6.*'label'", "missing"),
    Kind("label is a dict", labelled({"good": 1}), "row 6.*'label'", "a dict"),
    Kind("label is an object", labelled(object()), "row 6.*'label'", "a object"),
    Kind("label is infinite", labelled(math.inf, WHOLE), "row 6.*'label'", "inf"),
    Kind("one label is a fraction", labelled(1.5, WHOLE), "row 6.*'label'", "1.5.*whole"),
    Kind("one label is -100", labelled(-100, WHOLE), "row 6.*'label'", "-100"),
    Kind("all labels are -100", alone(*(row | {"label": -100} for row in GOOD)), "row 0.*'label'", "-100"),
    Kind("half a character in a label", labelled("\ud83d"), "row 6.*'label'", "surrogate"),
    Kind("a single class", alone(*(row | {"label": "good"} for row in GOOD)), "the data.*'label'", "single class"),
    Kind("missing label in a frame", frame(_without("label")), "row 3.*'label'", "missing"),
    Kind("class index -1 in a Dataset", dataset(_classes), "row 2.*'label'", "missing"),
    Kind(
        "label outside of those named",
        labelled("godo"),
        "row 6.*'label'",
        "'godo'.*Did you mean 'good'",
        SequenceClassification(labels=("bad", "good")),
    ),
    Kind(
        "evaluation label never seen",
        rows(),
        "row 0.*'label'",
        "'godo'.*never seen",
        evaluation=[{"text": "a house", "label": "godo"}],
    ),
    Kind("no evaluation rows", rows(), "the data", "no rows", evaluation=[]),
    Kind("evaluation without labels", rows(), "the data", "no column 'label'", evaluation=[{"text": "a house"}]),
    Kind("share of rows above 1", rows(), "1.5", "between 0 and 1", evaluation=1.5),
    Kind("share that holds out no row", rows(), "6 rows", "no row to hold out", evaluation=0.01),
    Kind("lists and strings mixed", labelled(["good", "bad"]), "row 0.*'label'", "single str"),
    Kind("None inside of a list", labelled(["good", None], MULTI), "row 6.*'label'", "missing"),
    Kind("list inside of a list", labelled([["good"]], MULTI), "row 6.*'label'", "a list"),
    Kind(
        "vectors of zeros and ones",
        alone(*(row | {"label": [n % 2, 1]} for n, row in enumerate(GOOD))),
        "row 0.*'label'",
        "vector of zeros and ones",
    ),
    Kind("number is NaN", scored(math.nan), "row 5.*'label'", "missing"),
    Kind("number is infinite", scored(-math.inf), "row 5.*'label'", "no finite number"),
    Kind("number is a word", scored("high"), "row 5.*'label'", "no finite number", NUMBERS),
    Kind("number that overflows", scored(1e39), "row 5.*'label'", "too large"),
    Kind("number whose square overflows", scored(-1e20), "row 5.*'label'", "too large"),
    Kind("words where numbers were asked for", rows(), "row 0.*'label'", "no finite number", NUMBERS),
)
TAG: tuple[Kind, ...] = (
    Kind("fewer tags than words", tagged(["anna", "saw"], ["B-PER"]), "row 4.*'tags'", "2 words and 1 tags", TAGS),
    Kind("more tags than words", tagged(["anna"], ["B-PER", "O"]), "row 4.*'tags'", "1 words and 2 tags", TAGS),
    Kind("no words", tagged([], []), "row 4.*'tokens'", "no words", TAGS),
    Kind("words are None", tagged(None, ["O"]), "row 4.*'tokens'", "missing", TAGS),
    Kind(
        "a word is a number", tagged(["anna", 3], ["O", "O"]), "row 4, word 1|row 4.*word 1.*'tokens'", "3, a int", TAGS
    ),
    Kind("a word is None", tagged(["anna", None], ["O", "O"]), "row 4.*word 1.*'tokens'", "None", TAGS),
    Kind("words are a dict", tagged({"a": 1}, ["O"]), "row 4.*'tokens'", "a dict", TAGS),
    Kind("tags are None", tagged(["anna"], None), "row 4.*'tags'", "missing", TAGS),
    Kind("a tag is None", tagged(["anna", "saw"], ["O", None]), "row 4.*'tags'.*word 1", "missing", TAGS),
    Kind("a tag is empty", tagged(["anna", "saw"], ["O", " "]), "row 4.*'tags'.*word 1", "missing", TAGS),
    Kind("a tag is -100", tagged(["anna", "saw"], [0, -100]), "row 4.*'tags'.*word 1", "-100", TAGS),
    Kind("half a character in a word", tagged(["\udc00"], ["O"]), "row 4.*'tokens'", "surrogate", TAGS),
    Kind("one tag for all words", alone(TAGGED[1], TAGGED[3]), "the data.*'tags'", "single class", TAGS),
    Kind(
        "tag outside of the scheme",
        tagged(["anna"], ["E-PER"]),
        "row 4.*'tags'",
        "'E-PER'.*scheme",
        TokenClassification(scheme="BIO"),
    ),
    Kind(
        "evaluation tag never seen",
        rows(good=TAGGED),
        "row 0.*'tags'",
        "'B-ORG'.*never seen",
        TAGS,
        evaluation=[{"tokens": ["anna"], "tags": ["B-ORG"]}],
    ),
)
WRITING: tuple[Kind, ...] = (
    Kind(
        "prompt is None",
        rows({"prompt": None, "completion": "a"}, good=PROMPTS),
        "row 6.*'prompt'",
        "missing",
        "causal-lm",
        backbone="gpt2",
    ),
    Kind(
        "completion is empty",
        rows({"prompt": "a", "completion": " "}, good=PROMPTS),
        "row 6.*'completion'",
        "empty",
        "causal-lm",
        backbone="gpt2",
    ),
    Kind(
        "text to write is a number",
        alone({"text": "a film"}, {"text": 3}),
        "row 1.*'text'",
        "3, a int",
        "causal-lm",
        backbone="gpt2",
    ),
    Kind(
        "text to write is empty",
        alone({"text": "a film"}, {"text": ""}),
        "row 1.*'text'",
        "empty",
        "causal-lm",
        backbone="gpt2",
    ),
    Kind(
        "source is None",
        rows({"source": None, "target": "a"}, good=PAIRS),
        "row 6.*'source'",
        "missing",
        "seq2seq-lm",
        backbone="t5",
    ),
    Kind(
        "target is empty",
        rows({"source": "a", "target": ""}, good=PAIRS),
        "row 6.*'target'",
        "empty",
        "seq2seq-lm",
        backbone="t5",
    ),
    Kind(
        "target is a list",
        rows({"source": "a", "target": ["b"]}, good=PAIRS),
        "row 6.*'target'",
        "a list",
        "seq2seq-lm",
        backbone="t5",
    ),
)
REFUSED_ROWS: tuple[Kind, ...] = (*TEXT, *LABEL, *TAG, *WRITING)
