"""compute, per_class and greater_is_better: names, foreign metrics, and what is refused."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from petune.errors import ConfigError, DataError, UnknownNameError
from petune.lookup import names
from petune.metrics.accuracy import Accuracy
from petune.metrics.base import compute, greater_is_better, per_class

LABELS = ("a", "b", "c")
TRUE, ANSWERED = ["a", "b", "c", "a"], ["a", "b", "b", "b"]


class Plain(evaluate.Metric):
    """A user's metric over the given kind of predictions; it gives back what it saw."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        super().__init__(keep_in_memory=True)

    def _info(self) -> Any:
        features = datasets.Features({"predictions": self.kind, "references": self.kind})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        self.saw = predictions
        return {"right": float(np.mean([p == r for p, r in zip(predictions, references, strict=True)]))}


INT, STRING = datasets.Value("int64"), datasets.Value("string")
SETS, TAGS = [["a", "c"], []], [["a", "a"], ["b"]]


@pytest.mark.parametrize(
    ("kind", "answers", "saw"),
    [
        (INT, ANSWERED, [0, 1, 1, 1]),
        (STRING, ANSWERED, ANSWERED),
        (datasets.Sequence(INT), SETS, [[1, 0, 1], [0, 0, 0]]),
        ([STRING], SETS, SETS),
        (datasets.Sequence(INT), TAGS, [[0, 0], [1]]),
        ([STRING], TAGS, TAGS),
        (datasets.Value("float32"), [0.5, 1.5], [0.5, 1.5]),
    ],
)
def test_an_evaluate_object_gets_what_it_declares(kind: Any, answers: list[Any], saw: list[Any]) -> None:
    """Names where its features are strings, class indices or indicator rows where they are numbers."""
    metric = Plain(kind)
    labels = () if isinstance(answers[0], float) else LABELS
    assert compute([metric], answers, answers, labels) == {"right": 1.0}
    assert metric.saw == saw


def test_a_combination_of_evaluate_objects_is_taken() -> None:
    """`evaluate.combine` gives an object of another class."""
    assert compute([evaluate.combine([Plain(INT)])], ANSWERED, TRUE, LABELS) == {"right": 0.5}


def test_a_class_of_evaluate_is_made() -> None:
    """The class does as well as an instance, and naming a metric twice computes it once."""
    assert compute([Accuracy, "accuracy", Accuracy()], ANSWERED, TRUE, LABELS) == {"accuracy": 0.5}


def test_a_function_gets_truth_first_and_names_its_figure() -> None:
    """As scikit-learn's do, so those can be passed; mappings keep their keys."""

    def hits(y_true: list[str], y_pred: list[str]) -> dict[str, Any]:
        assert (y_true, y_pred) == (TRUE, ANSWERED)
        return {"a_right": 1, "each": np.array([1.0, 0.5, 0.0]), "in": {"side": 2}}

    macro = functools.partial(f1_score, average="macro")
    figures = compute([accuracy_score, macro, hits], ANSWERED, TRUE, LABELS)
    assert figures["accuracy_score"] == 0.5 and figures["f1_score"] == pytest.approx((2 / 3 + 0.5 + 0) / 3)
    assert (figures["a_right"], figures["each_b"], figures["in_side"]) == (1.0, 0.5, 2.0)


def test_an_unknown_name_is_answered_with_the_near_one() -> None:
    """Dashes and underscores are the same."""
    with pytest.raises(UnknownNameError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'"):
        compute(["acuracy"], ANSWERED, TRUE, LABELS)
    assert compute(["matthews_correlation"], TRUE, TRUE, LABELS) == {"matthews_correlation": 1.0}


@pytest.mark.parametrize(
    ("metric", "answers", "labels", "words"),
    [
        ("matthews-correlation", SETS, LABELS, "cannot score sets of labels. .*one confusion matrix.*f1"),
        ("accuracy", TAGS, LABELS, "cannot score rows of tags.*token-accuracy"),
        ("f1", [0.5, 1.5], (), "cannot score numbers.*mae, pearson, r2, rmse, spearman"),
        ("mae", ANSWERED, LABELS, "mae cannot score single labels.*accuracy"),
        ("span-f1", ANSWERED, LABELS, "span-f1 cannot score single labels"),
        (5, ANSWERED, LABELS, "5 is no metric"),
        (lambda y_true, y_pred: "good", ANSWERED, LABELS, "gave 'good', a str"),
        (lambda y_true: 1.0, ANSWERED, LABELS, "failed: TypeError"),
        (f1_score, ANSWERED, LABELS, "f1_score failed: ValueError"),
        (Plain(datasets.Sequence(INT)), ANSWERED, LABELS, "Plain|plain"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(metric: Any, answers: Any, labels: Any, words: str) -> None:
    """With the reason, and the metrics that would fit."""
    with pytest.raises(ConfigError, match=words):
        compute([metric], answers, answers, labels)


def test_two_figures_of_one_name_are_refused() -> None:
    """None is overwritten in silence."""
    with pytest.raises(ConfigError, match="Two metrics give a figure called 'accuracy'"):
        compute(["accuracy", lambda y_true, y_pred: {"accuracy": 1.0}], ANSWERED, TRUE, LABELS)


def test_no_rows_and_unequal_rows_are_refused() -> None:
    """Before any metric sees them."""
    with pytest.raises(DataError, match="no rows"):
        compute(["accuracy"], [], [], LABELS)
    with pytest.raises(DataError, match="2 answers and 1 references"):
        compute(["accuracy"], ["a", "b"], ["a"], LABELS)
    with pytest.raises(DataError, match="row 0: 1 and 2 tags"):
        compute(["token-accuracy"], [["a", "a"]], [["a"]], LABELS)


def test_the_table_has_a_row_per_class_in_their_order() -> None:
    """A class without rows is there too, with support 0."""
    rows = per_class(["a", "b", "b"], ["a", "b", "a"], ("b", "a", "z"))
    assert rows == [
        {"label": "b", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        {"label": "a", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
        {"label": "z", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    ]


def test_the_table_of_sets_has_a_row_per_label() -> None:
    """Each label is a yes or no of its own, also where there is only one."""
    rows = per_class([["a", "b"], ["b"]], [["a"], ["b"]], LABELS)
    assert [(row["label"], row["precision"], row["support"]) for row in rows] == [
        ("a", 1, 1),
        ("b", 0.5, 1),
        ("c", 0, 0),
    ]
    rows = per_class([["a"], ["a"]], [["a"], []], ["a"])
    assert [(row["precision"], row["recall"], row["support"]) for row in rows] == [(0.5, 1, 1)]
    assert per_class([[]], [[]]) == []


def test_the_table_of_tags_has_a_row_per_type_of_span() -> None:
    """Tags that stand for themselves have a row each; without any span there is none."""
    true, answered = [["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]]
    labels = ["B-LOC", "B-PER", "I-PER", "O"]
    rows = per_class(answered, true, labels)
    assert [(row["label"], row["f1"], row["support"]) for row in rows] == [("LOC", 0, 1), ("PER", 1, 1)]
    assert per_class([["O", "O"]], [["O", "O"]], labels) == []
    assert [row["label"] for row in per_class([["B-LOC"]], [["B-PER"]], labels)] == ["LOC", "PER"]
    rows = per_class([["N", "N"]], [["N", "V"]], ["N", "V"])
    assert [(row["label"], row["recall"], row["support"]) for row in rows] == [("N", 1, 1), ("V", 0, 1)]


def test_sets_of_labels_that_look_like_tags_stay_labels() -> None:
    """Aeroplanes are no spans."""
    rows = per_class([["B-1", "B-52"], []], [["B-52"], []], ["B-1", "B-52"])
    assert [(row["label"], row["support"]) for row in rows] == [("B-1", 0), ("B-52", 1)]


def test_numbers_have_no_classes() -> None:
    """The table is empty."""
    assert per_class([0.5], [1.5]) == []


def test_it_is_known_which_figures_should_be_small() -> None:
    """Loss and errors, also with the prefix of an evaluation."""
    assert not any(greater_is_better(key) for key in ("loss", "eval_loss", "mae", "rmse", "eval_mae"))
    assert all(greater_is_better(key) for key in ("accuracy", "f1", "r2", "eval_f1_macro", "own_figure"))


def test_the_folder_is_the_registry() -> None:
    """One file is one metric."""
    assert {"accuracy", "f1", "span-f1", "token-accuracy", "mae", "rmse", "r2"} <= set(names("metrics"))


OFFLINE = """
import sys, warnings
warnings.simplefilter("error")
import petune.metrics
assert "evaluate" not in sys.modules and "sklearn" not in sys.modules
import socket
def refuse(*_, **__): raise AssertionError("a metric asked for the network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from petune.metrics.base import compute
print(compute(["accuracy", "f1"], ["a", "b"], ["a", "b"], ["a", "b"])["f1_macro"])
print(compute(["span-f1"], [["B-X", "O"]], [["B-X", "O"]], ["B-X", "O"])["f1"], compute(["mae"], [1.0], [2.0])["mae"])
"""


def test_metrics_need_no_network_and_load_late(tmp_path: Any) -> None:
    """In a fresh process with an empty home, sockets refused and warnings raised."""
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    made = subprocess.run([sys.executable, "-c", OFFLINE], env=env, capture_output=True, text=True, check=False)
    assert made.stdout.split() == ["1.0", "1.0", "1.0"], made.stderr
