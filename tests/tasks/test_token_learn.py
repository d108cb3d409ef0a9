"""TokenClassification.learn: columns, the scheme, tags, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from petune.errors import ConfigError, DataError
from petune.tasks.token_classification import TokenClassification
from tests.tasks.tables import reread, table


def tagged(*tags: Any, words: Any = ("anna", "saw", "oslo")) -> Any:
    """One row of words per row of tags."""
    return table([{"tokens": list(words), "tags": row} for row in tags])


@pytest.mark.parametrize(
    "columns", [("tokens", "tags"), ("Words", "NER_tags"), ("id", "tokens", "pos_tags", "ner_tags"), ("text", "labels")]
)
def test_columns_are_found_by_their_usual_names(columns: tuple[str, ...]) -> None:
    """CoNLL's other columns do not disturb."""
    tokens, tags = (columns[0] if len(columns) == 2 else columns[1]), columns[-1]
    rows = [{**dict.fromkeys(columns, "x"), tokens: ["a", "b"], tags: ["O", "B-X"]}]
    learnt = TokenClassification().learn(table(rows))
    assert (learnt.tokens, learnt.tags) == (tokens, tags)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-PER", "O", "B-LOC"], "BIO"),
        (["I-PER", "O", "I-LOC"], "BIO"),
        (["S-PER", "O", "E-LOC"], "BIOES"),
        (["U-PER", "O", "L-LOC"], "BIOES"),
        (["NOUN", "VERB", "NOUN"], "none"),
        (["B-PER", "O", "X"], "none"),
        ([1, 0, 2], "none"),
    ],
)
def test_the_scheme_is_told_by_the_tags(tags: list[Any], scheme: str) -> None:
    """Tags are kept as they are given, the older IOB1 included."""
    learnt = TokenClassification().learn(tagged(tags))
    assert learnt.scheme == scheme and set(learnt.labels) == set(map(str, tags))


def test_strings_are_split_at_white_space() -> None:
    """So a csv file can hold rows of words and tags."""
    rows = table([{"tokens": "anna saw  oslo", "tags": "B-PER O B-LOC"}])
    assert TokenClassification().learn(rows).labels == ("B-LOC", "B-PER", "O")


def test_arrays_are_lists() -> None:
    """Parquet files and data frames give arrays."""
    rows = table([{"tokens": np.array(["anna", "saw"]), "tags": np.array(["B-PER", "O"])}])
    assert TokenClassification().learn(rows).labels == ("B-PER", "O")


@pytest.mark.parametrize(
    ("rows", "knobs", "words"),
    [
        ([], {}, "no rows"),
        ([{"tokens": ["a", "b"], "tags": ["O"]}], {}, "line 2, column 'tags': there are 2 words and 1 tags"),
        ([{"tokens": ["a", "b"], "tags": ["O", "O"]}], {}, "single class: every word has the tag 'O'"),
        ([{"tokens": ["a", 5], "tags": ["O", "X"]}], {}, "line 2: word 1 in column 'tokens' is 5, a int"),
        ([{"tokens": ["a", None], "tags": ["O", "X"]}], {}, "line 2: word 1 .* NoneType"),
        ([{"tokens": [], "tags": []}], {}, "line 2: there are no words"),
        ([{"tokens": [" ", ""], "tags": ["O", "O"]}], {}, "line 2: there are no words"),
        ([{"tokens": None, "tags": []}], {}, "line 2: the words in column 'tokens' are missing"),
        ([{"tokens": 3, "tags": []}], {}, "line 2: the words .* a int"),
        ([{"tokens": ["a"], "tags": None}], {}, "line 2, column 'tags': the tags are missing"),
        ([{"tokens": ["a"], "tags": 3}], {}, "line 2, column 'tags': the tags are 3, a int"),
        ([{"tokens": ["a"], "tags": [None]}], {}, "line 2, column 'tags', word 0: the label is missing"),
        (
            [{"tokens": ["a"], "tags": ["X-PER"]}],
            {"scheme": "BIO"},
            "line 2, column 'tags': the tag 'X-PER' does not follow",
        ),
        (
            [{"tokens": ["a"], "tags": ["E-PER"]}],
            {"scheme": "BIO"},
            "line 2, column 'tags': the tag 'E-PER' does not follow",
        ),
        ([{"tokens": ["a"], "tags": ["NOUN"]}], {"scheme": "BIOES"}, "begin with B-, I-, E-, S-"),
        ([{"tokens": ["a"], "tags": ["O"]}], {"tags": "tgs"}, "no column 'tgs'.*Did you mean 'tags'"),
        ([{"forms": ["a"], "tags": ["O"]}], {}, "usual name for tokens"),
    ],
)
def test_bad_rows_are_named_by_their_place(rows: list[dict[str, Any]], knobs: dict[str, Any], words: str) -> None:
    """The first bad row is named by its place in the file."""
    made = table(rows) if rows else table([], "tokens", "tags")
    with pytest.raises(DataError, match=words):
        TokenClassification(**knobs).learn(made)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"scheme": "BOI"}, "Did you mean 'BIO'"),
        ({"labels": ("O", "O")}, "names a label twice"),
        ({"token": "x"}, "no knob 'token'. Did you mean 'tokens'"),
    ],
)
def test_contradictory_knobs_are_refused_at_once(knobs: dict[str, Any], words: str) -> None:
    """No data is needed to see that they are wrong."""
    with pytest.raises(ConfigError, match=words):
        TokenClassification(**knobs)


def test_what_was_chosen_is_said() -> None:
    """A scheme of none is explained, for a single odd tag makes it so."""
    given = TokenClassification()
    said = " ".join(given.learn(tagged(["B-PER", "O", "X"])).chosen(given))
    assert "tokens column: 'tokens'" in said and "each stands for itself" in said and "3 tags: B-PER, O, X." in said


def test_a_learnt_task_survives_json() -> None:
    """The reread task is equal, and learns the same again."""
    rows = tagged(["B-PER", "O", "B-LOC"])
    learnt = TokenClassification(max_length=32).learn(rows)
    assert reread(learnt) == learnt == learnt.learn(rows)


def test_metrics_and_headline_follow_the_scheme() -> None:
    """Tags that mark no spans have no span F1; the strata of a row are its tags."""
    spans, parts = TokenClassification().learn(tagged(["B-X", "O", "O"])), TokenClassification().learn(tagged("A B A"))
    assert (spans.default_metrics(), spans.headline()) == (("span-f1", "token-accuracy"), "f1")
    assert (parts.default_metrics(), parts.headline()) == (("token-accuracy",), "token_accuracy")
    assert spans.strata(tagged(["B-X", "O", "O"])) == [{"B-X", "O"}]
    assert spans.model_config() == {
        "num_labels": 2,
        "id2label": {0: "B-X", 1: "O"},
        "label2id": {"B-X": 0, "O": 1},
    }
