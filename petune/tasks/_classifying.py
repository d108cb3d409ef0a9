"""What pictures and sounds have in common when each has one label: their columns, and how they are read."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.tasks._columns import LABEL, Names, columns_found, find_column, labels_found, named_column, some_rows
from petune.tasks._labels import classes
from petune.tasks._one_label import OneLabelTask
from petune.tasks._padding import Side
from petune.tasks._things import rows_of_things
from petune.tasks.base import Encoded, Table, Task


@knobs
class Classifying(OneLabelTask):
    """Rows of one thing (a picture, a sound) and its label.

    Args:
        label: the column of the labels; None finds it by its name.
        labels: see `Task`.
    """

    thing: ClassVar[str]
    """The knob that names the column of the things."""
    things: ClassVar[Names]

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.max_length is None, "max_length", self.max_length, "None: only texts have pieces")

    @property
    def column(self) -> str | None:
        """The column of the things, if it is known."""
        found: str | None = getattr(self, self.thing)
        return found

    # ------------------------------------------------------------------ learning from the training rows

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in beyond the `given` task, as sentences."""
        return [*columns_found(self, given, self.thing, "label"), *labels_found(self, given)]

    def _resolved(self, table: Table) -> Self:
        """A copy that knows its columns."""
        found: dict[str, Any] = {
            self.thing: find_column(table, self.column, self.thing, self.things),
            "label": find_column(table, self.label, "label", LABEL),
        }
        return dataclasses.replace(self, **found)

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
        if labelled:
            some_rows(table)
        targets = self._targets(table) if labelled else None
        made = self._read(table, column, tokenizer)
        for index, example in enumerate(made.examples):
            example["row"] = index
            if targets is not None:
                example["labels"] = targets[index]
        return made

    @abstractmethod
    def _read(self, table: Table, column: str, reader: Any) -> Encoded:
        """Examples with what the backbone reads, and what must be said."""

    def _side(self, tokenizer: Any) -> Side:
        """Behind what was heard or seen."""
        return "right"

    def _need_learnt(self) -> None:
        if self.column is None or not self.labels:
            raise ConfigError(
                "The task has not learnt its columns and labels yet.",
                fix="Call learn(table) with the training rows first.",
            )
