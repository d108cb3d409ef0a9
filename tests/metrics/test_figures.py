"""Every figure against one worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from petune.errors import DataError
from petune.metrics.accuracy import Accuracy
from petune.metrics.base import compute
from petune.metrics.f1 import F1
from petune.metrics.matthews_correlation import MatthewsCorrelation
from petune.metrics.span_f1 import SpanF1

# Truth a a a b b c, answers a a b b c c: 4 of 6 right.
TRUE, ANSWERED, LABELS = list("aaabbc"), list("aabbcc"), ("a", "b", "c")
SETS_TRUE, SETS = [["a", "b"], ["c"], []], [["a"], ["c"], ["c"]]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("accuracy", 4 / 6),
        ("precision_micro", 4 / 6),
        ("precision_macro", (1 + 1 / 2 + 1 / 2) / 3),
        ("precision_weighted", (3 * 1 + 2 * 1 / 2 + 1 * 1 / 2) / 6),
        ("recall_micro", 4 / 6),
        ("recall_macro", (2 / 3 + 1 / 2 + 1) / 3),
        ("recall_weighted", (3 * 2 / 3 + 2 * 1 / 2 + 1 * 1) / 6),
        ("f1_micro", 4 / 6),
        ("f1_macro", (0.8 + 1 / 2 + 2 / 3) / 3),
        ("f1_weighted", (3 * 0.8 + 2 * 1 / 2 + 1 * 2 / 3) / 6),
        # Gorodkin: (c s - sum p t) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)), c = 4 right of s = 6
        ("matthews_correlation", (4 * 6 - (2 * 3 + 2 * 2 + 2 * 1)) / math.sqrt((36 - 12) * (36 - 14))),
    ],
)
def test_single_labels(key: str, expected: float) -> None:
    """Micro F1 of single labels is the accuracy."""
    names = ["accuracy", "precision", "recall", "f1", "matthews-correlation"]
    assert compute(names, ANSWERED, TRUE, LABELS)[key] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("accuracy", 1 / 3),  # the whole set must be right
        ("precision_micro", 2 / 3),
        ("recall_micro", 2 / 3),
        ("f1_micro", 2 / 3),
        ("f1_macro", (1 + 0 + 2 / 3) / 3),
        ("f1_weighted", (1 + 0 + 2 / 3) / 3),
    ],
)
def test_sets_of_labels(key: str, expected: float) -> None:
    """Label b is never answered and counts 0, without a warning."""
    assert compute(["accuracy", "precision", "recall", "f1"], SETS, SETS_TRUE, LABELS)[key] == pytest.approx(expected)


def test_numbers() -> None:
    """Errors 0.5, 0, 1.5 around a mean of 2."""
    figures = compute(["mae", "rmse", "r2"], [1.5, 2.0, 1.5], [1.0, 2.0, 3.0])
    assert figures["mae"] == pytest.approx(2 / 3)
    assert figures["rmse"] == pytest.approx(math.sqrt(2.5 / 3))
    assert figures["r2"] == pytest.approx(1 - 2.5 / 2)
    assert math.isnan(compute(["r2"], [1.0], [1.0])["r2"])


def test_spans_count_whole_and_tags_one_by_one() -> None:
    """Of 2 true and 2 answered spans 1 is right, and of 6 tags 4: the two figures are far apart."""
    true = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "O"]]
    answered = [["B-PER", "I-PER", "O"], ["O", "B-LOC", "O"]]
    figures = compute(["span-f1", "token-accuracy"], answered, true, ["B-LOC", "B-PER", "I-PER", "O"])
    assert (figures["precision"], figures["recall"], figures["f1"]) == (0.5, 0.5, 0.5)
    assert figures["token_accuracy"] == figures["token_f1_micro"] == pytest.approx(4 / 6)
    assert figures["token_f1_macro"] == pytest.approx((0 + 1 + 1 + 2 / 3) / 4)


@pytest.mark.parametrize(
    ("true", "answered", "f1"),
    [
        (["I-PER", "I-PER", "O"], ["B-PER", "I-PER", "O"], 1.0),  # IOB1 and BIO mark the same span
        (["B-PER", "E-PER", "S-LOC"], ["B-PER", "I-PER", "B-LOC"], 1.0),  # so does BIOES
        (["B-PER", "L-PER", "U-LOC"], ["B-PER", "E-PER", "S-LOC"], 1.0),  # and BILOU
        (["U-LOC", "U-LOC"], ["U-LOC", "O"], 2 / 3),  # two spans side by side stay two
        (["B-PER", "I-PER"], ["B-PER", "B-PER"], 0.0),
        (["B-PER", "I-PER"], ["B-PER", "I-LOC"], 0.0),
        (["O", "O"], ["O", "O"], 0.0),
    ],
)
def test_span_schemes(true: list[str], answered: list[str], f1: float) -> None:
    """seqeval's default mode reads them all, as the CoNLL script does."""
    assert SpanF1().compute(predictions=[answered], references=[true])["f1"] == pytest.approx(f1)


def test_tags_that_mark_no_span_have_no_span_f1() -> None:
    """seqeval would only warn, and count something."""
    with pytest.raises(DataError, match=r"'NOUN' marks no span.*token-accuracy"):
        compute(["span-f1"], [["NOUN", "NOUN"]], [["NOUN", "VERB"]], ["NOUN", "VERB"])


@pytest.mark.parametrize("answers", [["a", "a"], ["z", "z"]])
def test_useless_answers_score_without_a_warning(answers: list[str]) -> None:
    """Warnings are errors here; a share of nothing is 0."""
    figures = compute(["f1", "precision", "recall", "matthews-correlation"], answers, ["a", "b"], ["a", "b"])
    assert figures["matthews_correlation"] == 0 and all(math.isfinite(value) for value in figures.values())
    assert compute(["matthews-correlation"], ["a"], ["a"], ["a", "b"])["matthews_correlation"] == 0


@pytest.mark.parametrize("answers", [[[], []], [["a"], []]])
def test_empty_sets_score_without_a_warning(answers: list[list[str]]) -> None:
    """Nothing true and nothing answered is a right answer, but no F1."""
    figures = compute(["accuracy", "f1", "precision", "recall"], answers, [[], []], ["a", "b"])
    assert figures["accuracy"] == (1.0 if answers[0] == [] else 0.5) and figures["f1_micro"] == 0


def test_one_label_is_still_a_set() -> None:
    """Its absence is no class of its own: 1 of 2 answers is right, and all of the true ones are found."""
    figures = compute(["precision", "recall", "f1"], [["a"], ["a"], []], [["a"], [], []], ["a"])
    assert (figures["precision_micro"], figures["recall_macro"]) == (0.5, 1.0)
    assert figures["f1_weighted"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_a_metric_takes_class_indices_too(make: Any) -> None:
    """Used by itself it is an evaluate metric like any other."""
    assert Accuracy().compute(predictions=make([1, 0]), references=make([1, 1])) == {"accuracy": 0.5}


def test_a_metric_gathers_batches() -> None:
    """add_batch and compute, as evaluate has it; the instance can be used again."""
    metric = F1()
    for _ in range(2):
        metric.add_batch(predictions=["a"], references=["a"])
        metric.add_batch(predictions=["b"], references=["a"])
        assert metric.compute()["f1_micro"] == 0.5


def test_a_metric_writes_nothing(tmp_path: Any) -> None:
    """No cache folder, no lock."""
    metric = MatthewsCorrelation(cache_dir=str(tmp_path / "cache"))
    metric.compute(predictions=["a", "b"], references=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_answers_of_question_answering() -> None:
    """SQuAD's normalisation, the best of several references, and nothing where nothing is right."""
    said = ["The Seine!", "old Oslo", "", "Rome", ""]
    right = [["seine", "a river"], ["Oslo"], [""], [""], ["Paris"]]
    figures = compute(["exact-match", "token-f1"], said, right)
    assert figures["exact_match"] == pytest.approx(2 / 5)
    assert figures["token_f1"] == pytest.approx((1 + 2 / 3 + 1 + 0 + 0) / 5)


def test_correlations_against_scipy() -> None:
    """Ties have their mean rank; a column that never changes correlates with nothing, without a warning."""
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(0)
    answers, truth = draw.normal(size=50).round(1).tolist(), draw.integers(0, 5, size=50).astype(float).tolist()
    figures = compute(["spearman", "pearson"], answers, truth)
    assert figures["spearman"] == pytest.approx(stats.spearmanr(answers, truth).statistic)
    assert figures["pearson"] == pytest.approx(stats.pearsonr(answers, truth).statistic)
    assert compute(["spearman", "pearson"], [1.0, 1.0], [1.0, 2.0]) == {"spearman": 0.0, "pearson": 0.0}


def test_rankings_are_scored_by_where_the_right_text_is() -> None:
    """At the first, the second and the seventh place, and nowhere."""
    rankings = [list("abcdefgh"), list("bacdefgh"), list("bcdefgah"), list("bcdefghi")]
    figures = compute(["recall-at-k"], rankings, ["a"] * 4)
    assert figures == {"recall_at_1": 0.25, "recall_at_5": 0.5, "recall_at_10": 0.75}


def test_texts_are_right_as_they_are() -> None:
    """Accuracy of texts compares them as written; one of several right ones is enough."""
    assert compute(["accuracy"], ["red", "Red"], ["red", "red"]) == {"accuracy": 0.5}
    assert compute(["accuracy"], ["red", "blue"], [["red", "pink"], ["green"]]) == {"accuracy": 0.5}
