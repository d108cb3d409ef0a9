"""What pictures and sounds have in common when each has one label: columns, labels, loss and answers."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from petune.errors import ConfigError, DataError
from petune.knobs import check, knobs
from petune.tasks._columns import LABEL, Names, cells, columns_found, find_column, named_column, some_rows
from petune.tasks._labels import classes, label_name, ordered, unfloated
from petune.tasks._padding import pad_inputs
from petune.tasks._problems import SingleLabel
from petune.tasks._things import rows_of_things
from petune.tasks.base import Batch, Encoded, Example, Table, Task


@knobs
class Classifying(Task):
    """Rows of one thing (a picture, a sound) and its label.

    Args:
        label: the column of the labels; None finds it by its name.
        labels: see `Task`.
    """

    thing: ClassVar[str]
    """The knob that names the column of the things."""
    things: ClassVar[Names]

    label: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.max_length is None, "max_length", self.max_length, "None: only texts have pieces")
        object.__setattr__(self, "labels", tuple(label_name(name, "labels") for name in self.labels))
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels={self.labels!r} names a label twice.", fix="Give each label once.")

    @property
    def column(self) -> str | None:
        """The column of the things, if it is known."""
        found: str | None = getattr(self, self.thing)
        return found

    # ------------------------------------------------------------------ learning from the training rows

    def learn(self, table: Table) -> Self:
        """A copy with columns and labels filled in; labels that were given keep their order.

        Raises:
            DataError: no rows, no such column, a single class.
        """
        some_rows(table)
        found = self._resolved(table)
        names = found._names(table)
        if len(set(names)) < 2:
            raise DataError(
                f"{table.source} holds a single class: every row has {names[0]!r} in column {found.label!r}.",
                expected="At least two classes are needed to learn anything.",
                fix="Check the label column, or add rows of another class.",
            )
        return dataclasses.replace(found, labels=self.labels or ordered(names))

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in beyond the `given` task, as sentences."""
        said = columns_found(self, given, self.thing, "label")
        if self.labels and not given.labels:
            shown = ", ".join(self.labels[:10]) + (", ..." if len(self.labels) > 10 else "")
            said.append(f"{len(self.labels)} labels: {shown}.")
        return said

    def _resolved(self, table: Table) -> Self:
        found: dict[str, Any] = {
            self.thing: find_column(table, self.column, self.thing, self.things),
            "label": find_column(table, self.label, "label", LABEL),
        }
        return dataclasses.replace(self, **found)

    def _names(self, table: Table) -> list[str]:
        """The label of each row of a table whose columns are known."""
        named = [[label_name(value, place)] for place, value in cells(table, self.label or "")]
        return [name for (name,) in unfloated(named)]

    def strata(self, table: Table) -> list[set[str]] | None:
        """The label of each row. Works before `learn` as well."""
        return [{name} for name in self._resolved(table)._names(table)]

    # ------------------------------------------------------------------ rows to batches

    def model_config(self) -> dict[str, Any]:
        """The shell's configuration: one output per label."""
        self._need_learnt()
        return {**classes(self.labels), "problem_type": "single_label_classification"}

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of things alone, or dicts with the columns of training.

        Raises:
            DataError: a single path in place of a list.
        """
        return rows_of_things(texts, self.column or self.thing, f"the {self.thing}s")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples; what was converted is told.

        Raises:
            DataError: what cannot be decoded, or a bad label, with the row's place.
            ConfigError: the task has not learnt yet.
        """
        self._need_learnt()
        column = named_column(table, self.column or "", self.thing)
        targets: list[int] | None = None
        if labelled:
            some_rows(table)
            problem, place = SingleLabel(self.labels), named_column(table, self.label or "", "label")
            targets = [problem.target(value, where) for where, value in cells(table, place)]
        made = self._read(table, column, tokenizer)
        for index, example in enumerate(made.examples):
            example["row"] = index
            if targets is not None:
                example["labels"] = targets[index]
        return made

    @abstractmethod
    def _read(self, table: Table, column: str, reader: Any) -> Encoded:
        """Examples with what the backbone reads, and what must be said."""

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (B, ...); labels (B,) int64."""
        inputs = pad_inputs(examples, tokenizer, "right")
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, SingleLabel(self.labels).tensor([example["labels"] for example in examples]))

    # ------------------------------------------------------------------ logits to a loss and to answers

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum over rows of the cross-entropy; logits (B, C), labels (B,)."""
        weight = None if class_weight is None else class_weight.to(logits.device, dtype=logits.float().dtype)
        return SingleLabel(self.labels).loss(logits.float(), labels, label_smoothing, weight)

    def count(self, example: Example) -> int:
        """One supervised item per row."""
        return 1

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """(C,) int64: how many rows bear each label."""
        return SingleLabel(self.labels).counts([example["labels"] for example in examples])

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(B, C) to B arrays (C,) float32."""
        return list(logits.detach().float().cpu().numpy())

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        """Per row the best label."""
        return [self.labels[int(row.argmax())] for row in logits]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> np.ndarray:
        """(rows, C) float32 in the order of `labels`; rows sum to 1."""
        rows = np.asarray(logits, dtype=np.float32).reshape(len(logits), len(self.labels))
        return SingleLabel(self.labels).probabilities(rows)

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """The true labels."""
        return [self.labels[example["labels"]] for example in examples]

    def default_metrics(self) -> tuple[str, ...]:
        """Accuracy, and F1 as a mean over the classes (`f1_macro`) beside the other means."""
        return ("accuracy", "f1")

    def headline(self) -> str:
        """The figure that picks the best adapter."""
        return "accuracy"

    def _need_learnt(self) -> None:
        if self.column is None or not self.labels:
            raise ConfigError(
                "The task has not learnt its columns and labels yet.",
                fix="Call learn(table) with the training rows first.",
            )
