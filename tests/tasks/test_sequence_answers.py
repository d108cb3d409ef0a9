"""SequenceClassification: losses against torch's own, and logits to answers, probabilities and references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from petune.errors import ConfigError
from petune.tasks.base import Example
from petune.tasks.sequence_classification import SequenceClassification
from tests.tasks.tables import labelled
from tests.tiny import tokenizer

SINGLE = SequenceClassification().learn(labelled("a", "b", "c"))
MULTI = SequenceClassification().learn(labelled(["a", "b"], ["c"], []))
NUMBER = SequenceClassification().learn(labelled(0.5, 2.0))


def examples(task: SequenceClassification, *labels: Any) -> list[Example]:
    """Encoded rows with these labels."""
    return task.encode(labelled(*labels), tokenizer(), longest=64, labelled=True).examples


def batch_labels(task: SequenceClassification, *labels: Any) -> torch.Tensor:
    """The labels of a batch of such rows."""
    found = task.collate(examples(task, *labels), tokenizer()).labels
    assert found is not None
    return found


LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_single_label_loss_is_cross_entropy_summed(smoothing: float) -> None:
    """Divided by the rows it is torch's own mean."""
    labels = batch_labels(SINGLE, "a", "c", "c", "b")
    expected = functional.cross_entropy(LOGITS, labels, label_smoothing=smoothing)
    torch.testing.assert_close(SINGLE.loss(LOGITS, labels, label_smoothing=smoothing) / 4, expected)


def test_class_weights_weigh_rows_and_the_sum_stays_a_sum() -> None:
    """Torch's mean divides by the weights, ours by the rows."""
    labels, weight = batch_labels(SINGLE, "a", "c", "c", "b"), torch.tensor([1.0, 2.0, 3.0])
    rows = functional.cross_entropy(LOGITS, labels, reduction="none")
    torch.testing.assert_close(SINGLE.loss(LOGITS, labels, class_weight=weight), (rows * weight[labels]).sum())


def test_multi_label_loss_is_the_mean_over_classes_summed_over_rows() -> None:
    """Divided by the rows it is torch's own mean."""
    labels = batch_labels(MULTI, ["a", "b"], ["c"], [], ["a", "b", "c"])
    assert labels.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]]
    expected = functional.binary_cross_entropy_with_logits(LOGITS, labels)
    torch.testing.assert_close(MULTI.loss(LOGITS, labels) / 4, expected)
    weight = torch.tensor([1.0, 2.0, 0.0])
    weighted = functional.binary_cross_entropy_with_logits(LOGITS, labels, weight=weight)
    torch.testing.assert_close(MULTI.loss(LOGITS, labels, class_weight=weight) / 4, weighted)
    smooth = functional.binary_cross_entropy_with_logits(LOGITS, labels * 0.8 + 0.1)
    torch.testing.assert_close(MULTI.loss(LOGITS, labels, label_smoothing=0.2) / 4, smooth)


def test_regression_loss_is_the_squared_error_summed() -> None:
    """Divided by the rows it is torch's own mean; labels keep their scale."""
    labels = batch_labels(NUMBER, 0.5, -1, "3.5", 2)
    assert labels.tolist() == [0.5, -1.0, 3.5, 2.0]
    torch.testing.assert_close(NUMBER.loss(LOGITS[:, :1], labels) / 4, functional.mse_loss(LOGITS[:, 0], labels))


def test_the_loss_is_computed_in_full_precision() -> None:
    """Logits in bf16 do not make a bf16 loss."""
    labels = batch_labels(SINGLE, "a", "c", "c", "b")
    assert SINGLE.loss(LOGITS.bfloat16(), labels).dtype == torch.float32


def test_regression_refuses_what_needs_classes() -> None:
    """Smoothing, weights, class counts and probabilities have no meaning there."""
    labels = batch_labels(NUMBER, 0.5)
    with pytest.raises(ConfigError, match="label_smoothing has no meaning for regression"):
        NUMBER.loss(LOGITS[:1, :1], labels, label_smoothing=0.1)
    with pytest.raises(ConfigError, match="class_weight has no meaning for regression"):
        NUMBER.loss(LOGITS[:1, :1], labels, class_weight=torch.ones(1))
    with pytest.raises(ConfigError, match="class_weight has no meaning for regression"):
        NUMBER.class_counts(examples(NUMBER, 0.5))
    with pytest.raises(ConfigError, match="no probabilities"):
        NUMBER.probabilities([np.zeros(1)], [])


def test_class_counts_are_rows_per_label() -> None:
    """A class that does not occur counts 0; a row of two labels counts for both."""
    assert SINGLE.class_counts(examples(SINGLE, "a", "c", "c")).tolist() == [1, 0, 2]
    assert MULTI.class_counts(examples(MULTI, ["a", "c"], ["c"], [])).tolist() == [1, 0, 2]
    assert SINGLE.count(examples(SINGLE, "a")[0]) == 1


def test_single_labels_are_answered_by_name() -> None:
    """The largest logit wins, and probabilities sum to 1."""
    rows = SINGLE.split(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], dtype=torch.bfloat16), [])
    assert rows[0].dtype == np.float32 and SINGLE.answers(rows, []) == ["b", "a"]
    probabilities = SINGLE.probabilities(rows, [])
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert SINGLE.references(examples(SINGLE, "b", "a")) == ["b", "a"]


def test_sets_of_labels_are_answered_from_one_half_up() -> None:
    """Probability 0.5 itself counts, and an empty set is an answer."""
    rows = MULTI.split(torch.tensor([[0.0, -1.0, 1.0], [-1.0, -1.0, -1.0]]), [])
    assert MULTI.answers(rows, []) == [["a", "c"], []]
    np.testing.assert_allclose(MULTI.probabilities(rows, [])[0], [0.5, 0.26894143, 0.7310586], rtol=1e-6)
    assert MULTI.references(examples(MULTI, ["c", "a"], [])) == [["a", "c"], []]


def test_numbers_are_answered_as_floats() -> None:
    """The single output as it is."""
    assert NUMBER.answers(NUMBER.split(torch.tensor([[1.5], [-2.0]]), []), []) == [1.5, -2.0]
    assert NUMBER.references(examples(NUMBER, 0.5, 2)) == [0.5, 2.0]


def test_each_kind_of_problem_has_its_metrics() -> None:
    """The headline is a key of one of them."""
    assert SINGLE.default_metrics()[0] == SINGLE.headline() == "accuracy"
    assert (MULTI.default_metrics()[0], MULTI.headline()) == ("f1", "f1_micro")
    assert (NUMBER.default_metrics(), NUMBER.headline()) == (("mae", "rmse", "r2"), "r2")
