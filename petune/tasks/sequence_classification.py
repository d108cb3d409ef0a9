"""One answer per text: a label, several labels, or a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from petune.errors import ConfigError, DataError
from petune.knobs import knobs
from petune.tasks._columns import (
    cells,
    cells_of_column,
    columns_found,
    find_text_and_label,
    labels_found,
    named_column,
    some_rows,
)
from petune.tasks._labels import ProblemType, classes, detect, is_list, label_name, ordered, refuse_vectors, unfloated
from petune.tasks._media import refuse_paths
from petune.tasks._padding import pad_inputs
from petune.tasks._problems import KINDS, Problem
from petune.tasks._texts import need_pad_token, need_pieces, piece_limit, rows_of, texts_of, tokenize
from petune.tasks.base import Batch, Encoded, Example, Table, Task

MULTI: ProblemType = "multi_label_classification"
SINGLE: ProblemType = "single_label_classification"


@knobs
class SequenceClassification(Task):
    """Texts (or pairs of texts) to labels, sets of labels, or numbers.

    A column of whole numbers has whole names: 4, 4.0 and, in a csv file, `4.0` are all the label "4".

    Args:
        text: the column of the texts; None finds it by its name.
        label: the column of the labels; None finds it by its name.
        text_pair: the column of a second text per row (entailment, paraphrase), or None.
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`, as in
            transformers; None detects it: lists of labels are multi-label, numbers that are not all whole are
            regression (strings that all read as such numbers as well), the rest is single-label.
        label_separator: what separates several labels in one string, such as `"|"`; makes the problem multi-label.
        labels, max_length: see `Task`.

    Raises:
        ConfigError: for knobs that contradict each other.

    Examples:
        >>> table = Table([{"review": "good fun", "stars": 5}, {"review": "a bore", "stars": 1}], ("review", "stars"))
        >>> learnt = SequenceClassification().learn(table)
        >>> learnt.text, learnt.label, learnt.labels
        ('review', 'stars', ('1', '5'))
    """

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    texts_in: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    answers_in: ClassVar[str] = "label"

    text: str | None = None
    label: str | None = None
    text_pair: str | None = None
    problem_type: ProblemType | None = None
    label_separator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (name if isinstance(name, str) else label_name(name, "labels") for name in self.labels)
        object.__setattr__(self, "labels", tuple(names))
        if self.label_separator is not None and self.problem_type not in (None, MULTI):
            raise ConfigError(
                f"label_separator={self.label_separator!r} contradicts problem_type={self.problem_type!r}.",
                expected="Only multi-label rows hold several labels.",
                fix="Drop one of the two.",
            )
        if self.labels and self.problem_type == "regression":
            raise ConfigError("Regression has no labels.", fix="Drop labels=..., or another problem_type.")
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels={self.labels!r} names a label twice.", fix="Give each label once.")

    # ------------------------------------------------------------------ learning from the training rows

    def learn(self, table: Table) -> Self:
        """A copy with columns, kind of problem and labels filled in; labels that were given keep their order.

        Raises:
            DataError: no rows, no such column, a single class, labels of no known kind.
        """
        some_rows(table)
        found = self._resolved(table)
        sets = found._names(table)
        if found.problem_type == "regression":
            return found
        if len(self.labels) < 2 and all(set(names) == set(sets[0]) for names in sets):
            texts_of(table, found.text or "")  # a single row may be a dict of columns
            one = " and ".join(map(repr, sets[0])) or "no label"
            raise DataError(
                f"{table.source} holds a single class: every row has {one} in column {found.label!r}.",
                expected="At least two classes are needed to learn anything.",
                fix="Check the label column, or add rows of another class.",
            )
        return dataclasses.replace(found, labels=self.labels or ordered(name for names in sets for name in names))

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in beyond the `given` task, as sentences."""
        assert isinstance(given, SequenceClassification)
        said = columns_found(self, given, "text", "label")
        if given.problem_type is None and self.problem_type == "regression":
            said.append("The labels are numbers that are not all whole: regression (problem_type=... says otherwise).")
        elif given.problem_type is None:
            said.append(f"problem_type: {self.problem_type!r}.")
        return [*said, *labels_found(self, given)]

    def _names(self, table: Table) -> list[list[str]]:
        """The labels in each row of a table whose columns and kind of problem are known."""
        if self.problem_type == MULTI:
            refuse_vectors(cells_of_column(table, self.label or ""))
        kind = self._kind()
        return unfloated([kind.names(value, place) for place, value in cells_of_column(table, self.label or "")])

    def _resolved(self, table: Table) -> Self:
        """Columns and kind of problem, without the labels."""
        text, label = find_text_and_label(table, self.text, self.label, self.text_pair)
        if self.text is None:
            refuse_paths(table, text)
        problem = self.problem_type or (MULTI if self.label_separator is not None else None)
        if problem is None and self.labels and not any(is_list(value) for _, value in cells(table, label)):
            problem = SINGLE  # named labels are classes, whatever they look like
        return dataclasses.replace(
            self, text=text, label=label, problem_type=problem or detect(cells_of_column(table, label))
        )

    def strata(self, table: Table) -> list[set[str]] | None:
        """The labels of each row; None for numbers. Works before `learn` as well."""
        found = self._resolved(table)
        return None if found.problem_type == "regression" else [set(names) for names in found._names(table)]

    # ------------------------------------------------------------------ rows to batches

    def model_config(self) -> dict[str, Any]:
        """The shell's configuration: one output per label, or a single one for regression."""
        self._need_learnt()
        if self.problem_type == "regression":
            return {"num_labels": 1, "problem_type": "regression"}
        return {**classes(self.labels), "problem_type": self.problem_type}

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of plain texts; for pairs of texts 2-tuples; or dicts with the columns of training.

        Raises:
            DataError: a single string, or a row that is no pair where pairs are needed.
        """
        columns = tuple(name for name in (self.text or "text", self.text_pair) if name is not None)
        return Table(rows_of(texts, columns), columns, "the texts")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples with all that the tokenizer gives; rows above the limit are cut, and counted.

        Raises:
            DataError: a bad text or label, with the row's place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: the tokenizer has no pad token.
        """
        self._need_learnt()
        need_pad_token(tokenizer)
        limit = piece_limit(self.max_length, longest)
        if labelled:
            some_rows(table)
        texts = texts_of(table, named_column(table, self.text or "", "text"), some_empty=labelled)
        pair = named_column(table, self.text_pair, "text_pair") if self.text_pair else None
        pairs = texts_of(table, pair, some_empty=labelled) if pair else None
        targets = self._targets(table) if labelled else None
        pieces = tokenize(texts, pairs, tokenizer, limit)
        need_pieces(pieces.rows, table)
        for index, example in enumerate(pieces.rows):
            example["row"] = index
            if targets is not None:
                example["labels"] = targets[index]
        notices = []
        if pieces.cut:
            notices.append(
                f"{table.source}: {pieces.cut} of {len(table)} rows were longer than {limit} pieces and were cut"
                f" (longest {pieces.longest})."
            )
        return Encoded(pieces.rows, notices)

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (B, T); labels (B,) int64, (B, C) float32 of zeros and ones, or (B,) float32."""
        need_pad_token(tokenizer)
        inputs = pad_inputs(examples, tokenizer, getattr(tokenizer, "padding_side", "right"))
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, self._problem.tensor([example["labels"] for example in examples]))

    # ------------------------------------------------------------------ (logits, labels) to a loss

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum over rows of cross-entropy, of binary cross-entropy averaged over the C classes, or of squared error.

        Args:
            logits: (B, C); (B, 1) for regression.
            labels: as `collate` makes them.
            label_smoothing: towards 1/C, or towards 1/2 for multi-label.
            class_weight: (C,); rows are weighted, and the sum is still divided by the number of rows (torch's own
                mean would divide by the sum of the weights). Multi-label: both answers of a class have its weight.

        Raises:
            ConfigError: smoothing or weights for regression.
        """
        weight = None if class_weight is None else class_weight.to(logits.device, dtype=torch.float32)
        return self._problem.loss(logits.float(), labels, label_smoothing, weight)

    def count(self, example: Example) -> int:
        """One supervised item per row."""
        return 1

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """(C,) int64: how many rows bear each label.

        Raises:
            ConfigError: for regression, which has no classes.
        """
        return self._problem.counts([example["labels"] for example in examples])

    # ------------------------------------------------------------------ logits to answers

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(B, C) to B arrays (C,) float32."""
        return list(logits.detach().float().cpu().numpy())

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        """Per row the best label; for multi-label the labels of probability 0.5 or more; a float for regression."""
        return [self._problem.answer(row) for row in logits]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> np.ndarray:
        """(rows, C) float32 in the order of `labels`; rows sum to 1, except for multi-label.

        Raises:
            ConfigError: for regression, which has no probabilities.
        """
        rows = np.asarray(logits, dtype=np.float32).reshape(len(logits), -1 if len(logits) else len(self.labels))
        return self._problem.probabilities(rows)

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """The true answers, in the form of `answers`."""
        return [self._problem.reference(example["labels"]) for example in examples]

    # ------------------------------------------------------------------ evaluation

    def default_metrics(self) -> tuple[str, ...]:
        """What `evaluate` computes for this kind of problem."""
        return self._problem.metrics

    def headline(self) -> str:
        """The figure that picks the best adapter."""
        return self._problem.headline

    @property
    def _problem(self) -> Problem:
        """The kind of problem with its labels."""
        self._need_learnt()
        return self._kind()

    def _kind(self) -> Problem:
        return KINDS[self.problem_type or SINGLE](self.labels, self.label_separator)

    def _targets(self, table: Table) -> list[Any]:
        """What the examples keep of the label column."""
        problem, column = self._problem, named_column(table, self.label or "", "label")
        return [problem.target(value, place) for place, value in cells_of_column(table, column)]

    def _need_learnt(self) -> None:
        if self.text is None or self.problem_type is None or not (self.labels or self.problem_type == "regression"):
            raise ConfigError(
                "The task has not learnt its columns and labels yet.",
                fix="Call learn(table) with the training rows first.",
            )
