"""SequenceClassification.learn: columns, the kind of problem, labels, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from petune.errors import ConfigError, DataError
from petune.tasks.sequence_classification import SequenceClassification
from tests.tasks.tables import labelled, reread, table

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        (("text", "label"), "text", "label"),
        (("id", "Review", "Stars"), "Review", "Stars"),
        (("idx", "sentence", "label"), "sentence", "label"),
        (("text", "label", "label_text", "title"), "text", "label"),
        (("TARGET", "content"), "content", "TARGET"),
    ],
)
def test_columns_are_found_by_their_usual_names(columns: tuple[str, ...], text: str, label: str) -> None:
    """Upper case does not matter, and the plain names win over the lesser ones."""
    rows = [dict.fromkeys(columns, f"some words {i}") for i in range(2)]
    learnt = SequenceClassification().learn(table(rows))
    assert (learnt.text, learnt.label) == (text, label)


@pytest.mark.parametrize("columns", [("Satz", "label"), ("text", "Klasse"), ("Satz", "Klasse")])
def test_of_two_columns_one_tells_the_other(columns: tuple[str, str]) -> None:
    """With exactly two columns, one known name or obvious running text is enough."""
    rows = [{columns[0]: f"ein Satz mit Worten {i}", columns[1]: "ab"[i % 2]} for i in range(6)]
    learnt = SequenceClassification().learn(table(rows))
    assert (learnt.text, learnt.label) == columns


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("premise", "hypothesis", "label"), "'premise', 'hypothesis'"),
        (("question", "passage", "label"), "text_pair"),
        (("text", "Text", "label"), "2 columns that could be the text"),
        (("text", "text2", "label"), "'text', 'text2'. .*text_pair="),
        (("text", "hypothesis", "label"), "2 columns that could be the text"),
        (("a", "b", "label"), "no column with a usual name for text"),
        (("text", "label", "labels"), "2 columns that could be the label"),
        (("text", "a", "b"), "no column with a usual name for label"),
    ],
)
def test_doubtful_columns_are_an_error(columns: tuple[str, ...], words: str) -> None:
    """None is chosen in silence: the columns are listed."""
    with pytest.raises(DataError, match=words) as error:
        SequenceClassification().learn(table([dict.fromkeys(columns, "x y")] * 2))
    assert all(column in str(error.value) for column in columns)


def test_two_columns_of_running_text_are_doubtful() -> None:
    """Without names to go by, two texts are not a text and a label."""
    rows = [{"a": f"some words {i}", "b": f"more words {i}"} for i in range(4)]
    with pytest.raises(DataError, match="usual name"):
        SequenceClassification().learn(table(rows))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("Txet", "label", "id"), r"usual name for text.*Did you mean 'Txet'\? Pass text="),
        (("text", "lable", "id"), r"usual name for label.*Did you mean 'lable'\? Pass label="),
        (("text", "id", "date"), r"'date'\. Pass label="),
        (("text", "tokens", "words"), r"'words'\. Pass label="),
    ],
)
def test_a_column_that_almost_has_a_usual_name_is_asked_about(columns: tuple[str, ...], words: str) -> None:
    """Where no column was named either; what is like no usual name, or is one of something else, is not."""
    rows = [dict.fromkeys(columns, "a"), dict.fromkeys(columns, "b")]
    with pytest.raises(DataError, match=words):
        SequenceClassification().learn(table(rows))


@pytest.mark.parametrize("knob", ["text", "label", "text_pair"])
def test_a_misspelt_column_is_answered_with_the_near_one(knob: str) -> None:
    """The knob is named as well."""
    with pytest.raises(DataError, match=rf"no column 'reviw'.*Did you mean 'review'.*{knob}="):
        SequenceClassification(**{knob: "reviw"}).learn(table([{"review": "x", "label": "a", "text": "t"}]))


@pytest.mark.parametrize(
    ("labels", "problem", "names"),
    [
        (["pos", "neg", "pos"], SINGLE, ("neg", "pos")),
        ([10, 9, 1], SINGLE, ("1", "9", "10")),
        (["10", "9", "-1"], SINGLE, ("-1", "9", "10")),
        ([True, False], SINGLE, ("False", "True")),
        ([np.int64(3), np.int64(2)], SINGLE, ("2", "3")),
        ([4.0, 3.0], SINGLE, ("3", "4")),
        ([" a", "a ", "b"], SINGLE, ("a", "b")),
        ([["x", "y"], [], ["y"]], MULTI, ("x", "y")),
        ([np.array(["x"]), ("y",)], MULTI, ("x", "y")),
        ([0.5, 1, 2.0], "regression", ()),
        (["3.8", "4", "-1e-3"], "regression", ()),
        (["3.8", "n/a"], SINGLE, ("3.8", "n/a")),
        (["nan", "inf"], SINGLE, ("inf", "nan")),
    ],
)
def test_the_kind_of_problem_is_told_by_the_labels(labels: list[Any], problem: str, names: tuple[str, ...]) -> None:
    """Lists are multi-label, numbers with fractions regression, all else single-label; labels are sorted strings."""
    learnt = SequenceClassification().learn(labelled(*labels))
    assert (learnt.problem_type, learnt.labels) == (problem, names)


def test_a_separator_makes_sets_of_strings() -> None:
    """An empty cell is an empty set."""
    learnt = SequenceClassification(label_separator="|").learn(labelled("b|a", "", "c | a"))
    assert (learnt.problem_type, learnt.labels) == (MULTI, ("a", "b", "c"))


def test_given_knobs_win_over_detection() -> None:
    """The order of given labels is kept, and numbers can be classes or targets at will."""
    assert SequenceClassification(labels=("pos", "neg")).learn(labelled("neg", "pos")).labels == ("pos", "neg")
    assert SequenceClassification(problem_type="regression").learn(labelled(1, 2)).problem_type == "regression"
    versions = SequenceClassification(problem_type=SINGLE).learn(labelled("1.5", "2.0"))
    assert versions.labels == ("1.5", "2.0")
    assert SequenceClassification(labels=("1.5", "2.0")).learn(labelled("1.5", "2.0")).problem_type == SINGLE


@pytest.mark.parametrize(
    ("labels", "knobs", "words"),
    [
        ([], {}, "holds no rows"),
        (["a", "a"], {}, "single class: every row has 'a'"),
        ([["a"], ["a"]], {}, "single class"),
        ([[], []], {}, "every row has no label"),
        (["a", None], {}, "line 3, column 'label': the label is missing"),
        (["a", float("nan")], {}, "line 3, column 'label': the label is missing"),
        (["a", "  "], {}, "line 3, column 'label': the label is missing"),
        (["a", {"b": 1}], {}, "line 3, column 'label': the label .* is a dict"),
        ([["a"], "b"], {}, "line 3, column 'label': the label 'b' is a single str.*label_separator"),
        ([[0, 1, 1], [1, 0, 0]], {}, "line 2, column 'label': .*vector of zeros and ones"),
        ([0.5, "good"], {}, "line 3, column 'label': the label 'good' is no finite number"),
        ([0.5, None], {}, "line 3, column 'label': the label is missing"),
        (
            [0.5, float("inf")],
            {"problem_type": "regression"},
            "line 3, column 'label': the label inf is no finite number",
        ),
        (["a", "b"], {"problem_type": MULTI}, "line 2, column 'label': .*label_separator"),
    ],
)
def test_bad_labels_are_named_with_their_row(labels: list[Any], knobs: dict[str, Any], words: str) -> None:
    """The first bad row is named by its place in the file."""
    rows = labelled(*labels) if labels else table([], "text", "label")
    with pytest.raises(DataError, match=words):
        SequenceClassification(**knobs).learn(rows)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"problem_type": "regresion"}, "Did you mean 'regression'"),
        ({"problem_type": SINGLE, "label_separator": "|"}, "contradicts"),
        ({"problem_type": "regression", "labels": ("a",)}, "Regression has no labels"),
        ({"labels": ("a", "a")}, "names a label twice"),
        ({"max_length": 2}, "max_length=2"),
        ({"txt": "review"}, "no knob 'txt'. Did you mean 'text'"),
    ],
)
def test_contradictory_knobs_are_refused_at_once(knobs: dict[str, Any], words: str) -> None:
    """No data is needed to see that they are wrong."""
    with pytest.raises(ConfigError, match=words):
        SequenceClassification(**knobs)


def test_what_was_chosen_is_said() -> None:
    """Columns, kind of problem and labels that were found are told; what was given is not."""
    given = SequenceClassification()
    said = " ".join(given.learn(labelled("a", "b")).chosen(given))
    assert "text column: 'text'" in said and "label column: 'label'" in said and "2 labels: a, b." in said
    assert "regression" in " ".join(given.learn(labelled("3.5", "4.1")).chosen(given))
    full = SequenceClassification(text="text", label="label", problem_type=SINGLE, labels=("a", "b"))
    assert full.learn(labelled("a", "b")).chosen(full) == []


@pytest.mark.parametrize("labels", [("a", "b"), (["a"], []), (0.5, 1.5)])
def test_a_learnt_task_survives_json(labels: tuple[Any, ...]) -> None:
    """Lists come back as tuples, so the reread task is equal, and learns the same again."""
    learnt = SequenceClassification(max_length=32).learn(labelled(*labels))
    assert reread(learnt) == learnt
    assert learnt.learn(labelled(*labels)) == learnt


def test_strata_need_no_labels_learnt() -> None:
    """A table is split before its training part is learnt; numbers have no strata."""
    assert SequenceClassification().strata(labelled("a", 2, True)) == [{"a"}, {"2"}, {"True"}]
    assert SequenceClassification().strata(labelled(["a", "b"], [])) == [{"a", "b"}, set()]
    assert SequenceClassification().strata(labelled(0.5, 1.5)) is None


def test_the_shells_configuration_names_the_labels() -> None:
    """id2label and label2id go with the checkpoint; regression has a single output."""
    config = SequenceClassification().learn(labelled("b", "a")).model_config()
    assert (
        config["num_labels"] == 2 and config["id2label"] == {0: "a", 1: "b"} and config["label2id"] == {"a": 0, "b": 1}
    )
    assert SequenceClassification().learn(labelled(0.5, 1.5)).model_config() == {
        "num_labels": 1,
        "problem_type": "regression",
    }


def test_a_named_second_text_leaves_the_first() -> None:
    """With `text_pair` given, the other text column is no longer doubtful."""
    rows = [{"sentence1": f"a b {i}", "sentence2": "c", "label": i % 2} for i in range(4)]
    learnt = SequenceClassification(text_pair="sentence2").learn(table(rows))
    assert (learnt.text, learnt.label) == ("sentence1", "label")
    with pytest.raises(DataError, match="no column 'sentence3'"):
        SequenceClassification(text_pair="sentence3").learn(table(rows))


@pytest.mark.parametrize("cell", ["['x', 'y']", "[1, 2]", "[0 1]", "[]", '["x"]'])
@pytest.mark.parametrize("knobs", [{}, {"label_separator": ","}])
def test_a_list_written_as_text_is_no_label(cell: str, knobs: dict[str, Any]) -> None:
    """What a csv file makes of a list is told with the ways to give lists; a word in brackets is a label."""
    with pytest.raises(DataError, match=r"line 3.*written as text.*label_separator.*jsonl"):
        SequenceClassification(**knobs).learn(labelled("x", cell))
    assert SequenceClassification().learn(labelled("[none]", "x")).labels == ("[none]", "x")


@pytest.mark.parametrize("vectors", [([0, 1], [1, 0]), ([0, 1, 0], [1, 0, 0]), ([1.0, 0.0], [0.0, 0.0])])
def test_a_column_of_zeros_and_ones_is_told(vectors: tuple[list[float], ...]) -> None:
    """Also where no single row gives it away; lists of other lengths hold the labels 0 and 1."""
    with pytest.raises(DataError, match=r"vector of zeros and ones.*Give their names"):
        SequenceClassification().learn(labelled(*vectors))
    assert SequenceClassification().learn(labelled([0, 1], [1])).labels == ("0", "1")


def test_half_a_character_in_a_label_is_refused() -> None:
    """A lone surrogate could be stored in no file."""
    with pytest.raises(
        DataError, match=r"line 3, column 'label': the label holds '\\ud83d' at position 1, a lone surrogate"
    ):
        SequenceClassification().learn(labelled("x", "y\ud83d"))
