"""What tasks with one label a row have in common, whatever the row is of: labels, loss and answers."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from petune.errors import ConfigError, DataError
from petune.knobs import knobs
from petune.tasks._columns import cells_of_column, named_column, some_rows
from petune.tasks._labels import label_name, ordered, unfloated
from petune.tasks._padding import Side, pad_inputs
from petune.tasks._problems import SingleLabel
from petune.tasks.base import Batch, Example, Table, Task


@knobs
class OneLabelTask(Task):
    """Rows with one of C labels each, learnt by cross-entropy.

    Args:
        label: the column of the labels; None finds it by its name.
        labels, max_length: see `Task`.
    """

    label: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", tuple(label_name(name, "labels") for name in self.labels))
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels={self.labels!r} names a label twice.", fix="Give each label once.")

    @property
    def _problem(self) -> SingleLabel:
        return SingleLabel(self.labels)

    # ------------------------------------------------------------------ learning from the training rows

    @abstractmethod
    def _resolved(self, table: Table) -> Self:
        """A copy that knows its columns, without the labels."""

    def learn(self, table: Table) -> Self:
        """A copy with columns and labels filled in; labels that were given keep their order.

        Raises:
            DataError: no rows, no such column, a single class.
        """
        some_rows(table)
        found = self._resolved(table)
        names = found._names(table)
        labels = self.labels or ordered([*names, *self._told()])
        if len(set(names)) < 2 and len(labels) < 2:
            raise DataError(
                f"{table.source} holds a single class: every row has {names[0]!r} in column {found.label!r}.",
                expected="At least two classes are needed to learn anything.",
                fix="Check the label column, or add rows of another class.",
            )
        return dataclasses.replace(found, labels=labels)

    def _told(self) -> Iterable[str]:
        """Labels that the knobs tell of, whether a row has them or not."""
        return ()

    def strata(self, table: Table) -> list[set[str]] | None:
        """The label of each row. Works before `learn` as well."""
        return [{name} for name in self._resolved(table)._names(table)]

    def _names(self, table: Table) -> list[str]:
        """The label of each row of a table whose columns are known."""
        cells = cells_of_column(table, named_column(table, self.label or "", "label"))
        return [name for (name,) in unfloated([self._problem.names(value, place) for place, value in cells])]

    def _targets(self, table: Table) -> list[int]:
        """The class of each row."""
        cells = cells_of_column(table, named_column(table, self.label or "", "label"))
        return [self._problem.target(value, place) for place, value in cells]

    # ------------------------------------------------------------------ rows to batches, logits to answers

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (B, ...); labels (B,) int64."""
        inputs = pad_inputs(examples, tokenizer, self._side(tokenizer))
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, self._problem.tensor([example["labels"] for example in examples]))

    def _side(self, tokenizer: Any) -> Side:
        """The side on which rows are padded."""
        side: Side = getattr(tokenizer, "padding_side", "right")
        return side

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum of cross-entropies over rows, (B, C) and (B,)."""
        weight = None if class_weight is None else class_weight.to(logits.device, dtype=torch.float32)
        return self._problem.loss(logits.float(), labels, label_smoothing, weight)

    def count(self, example: Example) -> int:
        """One supervised item per row."""
        return 1

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """(C,) int64: how many rows have each label."""
        return self._problem.counts([example["labels"] for example in examples])

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(B, C) to B arrays (C,) float32."""
        return list(logits.detach().float().cpu().numpy())

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        """Per row the likeliest label."""
        return [self._problem.answer(row) for row in logits]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> np.ndarray:
        """(rows, C) float32 in the order of `labels`; rows sum to 1."""
        rows = np.asarray(logits, dtype=np.float32).reshape(len(logits), len(self.labels))
        return self._problem.probabilities(rows)

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """The true labels."""
        return [self.labels[example["labels"]] for example in examples]

    def default_metrics(self) -> tuple[Any, ...]:
        """Accuracy, and F1 as a mean over the classes (`f1_macro`) beside the other means."""
        return ("accuracy", "f1")

    def headline(self) -> str:
        """The figure that picks the best adapter."""
        return "accuracy"


def at_places(every: Tensor, at: Tensor, length: int) -> Tensor:
    """(B, T, N) at one place a row, (B,) -> (B, N).

    Args:
        length: T of the batch.

    Raises:
        IndexError: fewer places than that, as of a last block that computed the first one alone.
    """
    if every.shape[1] != length:
        raise IndexError(f"{length} places were expected, there are {every.shape[1]}")
    return every.gather(1, at[:, None, None].expand(-1, 1, every.shape[-1])).squeeze(1)
