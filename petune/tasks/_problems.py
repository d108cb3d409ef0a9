"""The three kinds of problem of sequence classification: one label, several labels, a number.

Problem
├── SingleLabel   a class index per row, cross-entropy
├── MultiLabel    a list of class indices per row, binary cross-entropy per class
└── Regression    a float per row, squared error
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from petune.errors import ConfigError
from petune.tasks._labels import ProblemType, class_index, label_name, label_set, number


class Problem(ABC):
    """What differs between the kinds of problem.

    Args:
        labels: the classes in their order; none for regression.
        separator: what separates several labels in one string, or None.
    """

    metrics: ClassVar[tuple[str, ...]]
    headline: ClassVar[str]

    def __init__(self, labels: tuple[str, ...] = (), separator: str | None = None) -> None:
        self.labels, self.separator = labels, separator
        self.index = {name: position for position, name in enumerate(labels)}

    @abstractmethod
    def names(self, value: object, place: str) -> list[str]:
        """The labels in a cell; a number is checked, and has none."""

    @abstractmethod
    def target(self, value: object, place: str) -> Any:
        """What an example keeps of a cell."""

    @abstractmethod
    def tensor(self, targets: Sequence[Any]) -> Tensor:
        """The labels of a batch."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, label_smoothing: float, weight: Tensor | None) -> Tensor:
        """The sum over the rows; logits are float32."""

    @abstractmethod
    def counts(self, targets: Sequence[Any]) -> np.ndarray:
        """(C,) int64."""

    @abstractmethod
    def answer(self, logits: np.ndarray) -> Any:
        """(C,) to an answer."""

    @abstractmethod
    def reference(self, target: Any) -> Any:
        """A target in the form of an answer."""

    @abstractmethod
    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(rows, C) to (rows, C)."""


class SingleLabel(Problem):
    """Each row has exactly one of C labels."""

    metrics = ("accuracy", "f1", "precision", "recall", "matthews-correlation")
    headline = "accuracy"

    def names(self, value: object, place: str) -> list[str]:
        return [label_name(value, place)]

    def target(self, value: object, place: str) -> int:
        return class_index(label_name(value, place), self.index, place)

    def tensor(self, targets: Sequence[int]) -> Tensor:
        return torch.tensor(targets, dtype=torch.int64)  # (B,)

    def loss(self, logits: Tensor, labels: Tensor, label_smoothing: float, weight: Tensor | None) -> Tensor:
        return functional.cross_entropy(logits, labels, weight=weight, label_smoothing=label_smoothing, reduction="sum")

    def counts(self, targets: Sequence[int]) -> np.ndarray:
        return np.bincount(np.asarray(targets, dtype=np.int64), minlength=len(self.labels))

    def answer(self, logits: np.ndarray) -> str:
        return self.labels[int(logits.argmax())]

    def reference(self, target: int) -> str:
        return self.labels[target]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return torch.from_numpy(logits).softmax(-1).numpy()


class MultiLabel(Problem):
    """Each row has any number of C labels, none included."""

    metrics = ("f1", "precision", "recall", "accuracy")
    headline = "f1_micro"

    def names(self, value: object, place: str) -> list[str]:
        return label_set(value, place, self.separator)

    def target(self, value: object, place: str) -> list[int]:
        return sorted(class_index(name, self.index, place) for name in self.names(value, place))

    def tensor(self, targets: Sequence[list[int]]) -> Tensor:
        labels = torch.zeros(len(targets), len(self.labels))  # (B, C)
        for row, classes in enumerate(targets):
            labels[row, classes] = 1.0
        return labels

    def loss(self, logits: Tensor, labels: Tensor, label_smoothing: float, weight: Tensor | None) -> Tensor:
        smooth = labels.float() * (1 - label_smoothing) + label_smoothing / 2
        total = functional.binary_cross_entropy_with_logits(logits, smooth, weight=weight, reduction="sum")
        return total / logits.shape[-1]

    def counts(self, targets: Sequence[list[int]]) -> np.ndarray:
        flat = [index for classes in targets for index in classes]
        return np.bincount(np.asarray(flat, dtype=np.int64), minlength=len(self.labels))

    def answer(self, logits: np.ndarray) -> list[str]:
        return [self.labels[index] for index in np.flatnonzero(logits >= 0)]  # logit 0 is probability 0.5

    def reference(self, target: list[int]) -> list[str]:
        return [self.labels[index] for index in target]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return torch.from_numpy(logits).sigmoid().numpy()


class Regression(Problem):
    """Each row has one number."""

    metrics = ("mae", "rmse", "r2")
    headline = "r2"

    def names(self, value: object, place: str) -> list[str]:
        number(value, place)
        return []

    def target(self, value: object, place: str) -> float:
        return number(value, place)

    def tensor(self, targets: Sequence[float]) -> Tensor:
        return torch.tensor(targets, dtype=torch.float32)  # (B,)

    def loss(self, logits: Tensor, labels: Tensor, label_smoothing: float, weight: Tensor | None) -> Tensor:
        if label_smoothing or weight is not None:
            raise self._no_classes("label_smoothing" if label_smoothing else "class_weight")
        return functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")

    def counts(self, targets: Sequence[float]) -> np.ndarray:
        raise self._no_classes("class_weight")

    def answer(self, logits: np.ndarray) -> float:
        return float(logits[0])

    def reference(self, target: float) -> float:
        return float(target)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        raise ConfigError("Regression has no probabilities.", expected="It answers numbers.", fix="Use predict.")

    def _no_classes(self, knob: str) -> ConfigError:
        return ConfigError(f"{knob} has no meaning for regression.", expected="It needs classes.", fix=f"Drop {knob}.")


KINDS: dict[ProblemType, type[Problem]] = {
    "single_label_classification": SingleLabel,
    "multi_label_classification": MultiLabel,
    "regression": Regression,
}
