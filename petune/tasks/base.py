"""The contract of a task: rows to batches, (logits, labels) to a loss, logits to answers.

A task is a frozen dataclass: `learn(table)` returns a copy whose columns, kind of problem and labels are filled in.
Only a learnt task can encode. Labels are strings from here on; files, manifests and answers use the same strings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from torch import Tensor

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.lookup import find

Example = dict[str, Any]
"""One encoded row: `input_ids` and what else the tokenizer gave (lists of int), or what an image processor or a feature
extractor gave (arrays); `labels` when labelled, `row` (int). A task's own notes begin with an underscore; they, the
labels and the row stay behind when a batch is made. `_pieces` (int) tells the size of an example that has no
`input_ids`, or several. Long texts may become several examples of one row."""

Reads = Literal["tokenizer", "image_processor", "feature_extractor", "processor"]

IGNORE = -100
"""The label of positions that carry none; the loss and the metrics skip them."""
MARKERS = -1001
"""The piece that stands for the first of a task's own rows (`Task.own_rows`); the next ones count down. No vocabulary
has negative pieces, so no backbone is resized for them."""
_FILES = {"image_processor": "picture.png", "feature_extractor": "sound.wav", "processor": "sound.wav"}


@dataclass(frozen=True)
class Table:
    """Rows in one internal form, and where each came from.

    Args:
        rows: one mapping per row, column -> value.
        columns: the column names, in their order.
        source: a name for messages, such as `train.csv`.
        place: row index -> words for messages, such as `train.csv, line 17`.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: tuple[str, ...]
    source: str = "the data"
    place: Callable[[int], str] = field(default=lambda index: f"row {index}")

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> Table:
        """The rows at `indices`, still knowing where they came from."""
        indices = list(indices)
        return Table([self.rows[i] for i in indices], self.columns, self.source, lambda i: self.place(indices[i]))


class Encoded(NamedTuple):
    """Examples ready to batch, and what must be said about them (rows truncated or dropped)."""

    examples: list[Example]
    notices: list[str]


class Batch(NamedTuple):
    """What the model takes, (B, T) each, and the labels, taken out so that the loss is always ours."""

    inputs: dict[str, Tensor]
    labels: Tensor | None


@knobs
class Task(ABC):
    """Rows to batches, (logits, labels) to loss, logits to answers.

    Args:
        labels: the label names in class order; empty: learnt from the training rows, sorted.
        max_length: pieces per row, specials included; None takes the backbone's limit (at most 512).
    """

    auto_class: ClassVar[str]
    """The transformers class that makes the shell, such as `AutoModelForSequenceClassification`."""
    texts_in: ClassVar[tuple[str, ...]] = ()
    """The knobs that name the columns of its texts; with `answers_in` they let odd rows be told of."""
    answers_in: ClassVar[str] = ""
    """The knob that names the column of its labels, or of the texts that it is to write."""
    generates: ClassVar[bool] = False
    """Whether `predict` gives texts that the model writes; then it is a `WritingTask` (`petune.tasks._writing`)."""
    plain: ClassVar[bool] = False
    """Whether rows may be nothing but texts: then strings, and the lines of a .txt file, are data."""
    reads: ClassVar[Reads] = "tokenizer"
    """What makes rows into tensors, as transformers calls it. It is opened beside the backbone, handed to `encode` and
    `collate` as their `tokenizer`, and saved with the adapter."""

    side: ClassVar[Literal["left", "right"] | None] = None
    """On which side examples are padded, for a task that counts positions; None: on the tokenizer's own."""

    labels: tuple[str, ...] = ()
    max_length: int | None = None

    def __post_init__(self) -> None:
        check(self.max_length is None or self.max_length >= 4, "max_length", self.max_length, "None or at least 4")

    @abstractmethod
    def learn(self, table: Table) -> Self:
        """A copy with columns, kind of problem and labels filled in from the training rows.

        Raises:
            DataError: no rows, no such column, a single class, labels of no known kind.
        """

    def sample(self, table: Table, seed: int) -> Table:
        """The training rows to learn from, of those that were given; all of them, unless a task is for few."""
        return table

    def ready(self) -> Self:
        """A copy that answers without having seen a row (`Tuner.zero_shot`).

        Raises:
            ConfigError: for a task that learns its columns or labels from rows.
        """
        raise ConfigError(
            f"{type(self).__name__} learns its columns or labels from rows.",
            expected="Only labels that are told by words need none.",
            fix="Pass rows: zero_shot(rows).",
        )

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in beyond the `given` task (columns, kind of problem, labels), as sentences to print."""
        return []

    @abstractmethod
    def model_config(self) -> dict[str, Any]:
        """What the shell's configuration needs: `num_labels`, `id2label`, `label2id`, `problem_type`."""

    def own_rows(self) -> int:
        """How many pieces of its own (markers) it puts into its examples, which its adapters hold rows for.

        The first is the piece `MARKERS`, the next ones count down.
        """
        return 0

    def asks(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a row of the training data asks: rows that ask the same and are answered differently are told of."""
        return tuple(row.get(name) for knob in self.texts_in if (name := getattr(self, knob, None)) is not None)

    @abstractmethod
    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples; every row is checked, and the first bad one is named.

        Args:
            longest: the backbone's limit in pieces; `max_length` above it is an error.
            labelled: whether labels are read (they are not for `predict`).

        Raises:
            DataError: empty or non-string text, a label that training never saw, counts that differ, with the row.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """Pads examples into one batch."""

    def parts(self, example: Example) -> list[Example]:
        """The rows of the backbone's batch that an example takes; several for one with several texts of their own.

        `collate` stacks the parts of all examples, and `split` is given the logits of all parts, in that order.
        """
        return [example]

    def logits(self, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """What loss and answers read of the output of the shell, (B, ...).

        Args:
            output: as transformers' model gives it.
            inputs: what `collate` made, also what the model does not take.
        """
        found: Tensor = output.logits
        return found

    @abstractmethod
    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The SUM of the losses of all supervised items; the loop divides by their number over a whole step."""

    def supervised(self, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """At which of the B * T places of labels (B, T) a loss falls, (N,), and the labels there, (N,).

        `loss` then also takes the logits of these places alone, (N, V), with those labels. None: it needs all logits.
        """
        return None

    @abstractmethod
    def count(self, example: Example) -> int:
        """How many supervised items (rows, or tokens) an example holds."""

    @abstractmethod
    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """(C,) how often each class occurs, for `class_weight="balanced"`.

        Raises:
            ConfigError: for a task without classes (regression).
        """

    @abstractmethod
    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """Cuts the logits of a batch into one float32 array per example: (C,), or (words, C) for tags."""

    @abstractmethod
    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        """One answer per row: str, list[str] or float."""

    @abstractmethod
    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> Any:
        """(rows, C) in the order of `labels`; for tags a list of (words, C)."""

    @abstractmethod
    def references(self, examples: Sequence[Example]) -> list[Any]:
        """The true answers in the form of `answers`."""

    def ideal(self, examples: Sequence[Example]) -> list[Any]:
        """Answers that are all right, in the form of `answers`: metrics are tried on them before anything is learnt."""
        return self.references(examples)

    @abstractmethod
    def strata(self, table: Table) -> list[set[str]] | None:
        """The labels of each row, for a stratified split before `learn`; None for a task without labels."""

    @abstractmethod
    def table(self, texts: Sequence[Any]) -> Table:
        """The rows for `predict(texts)`: plain texts, word lists or dicts.

        Raises:
            DataError: for a single string in place of a list, or items of no known form.
        """

    def text_columns(self) -> list[str]:
        """The columns of the texts that it reads."""
        return [name for knob in self.texts_in if isinstance(name := getattr(self, knob, None), str)]

    def specimen(self) -> Any:
        """A row that `predict` takes, for the code on model cards: plain values, which Python's `repr` writes down."""
        columns = self.text_columns()
        return dict.fromkeys(columns, "...") if len(columns) > 1 else _FILES.get(self.reads, "...")

    @abstractmethod
    def default_metrics(self) -> tuple[Any, ...]:
        """The metrics computed by `evaluate`, mostly names; see `petune.metrics`."""

    def of_loss(self, loss: float) -> dict[str, float]:
        """What else `evaluate` tells of the mean loss, under other names."""
        return {}

    def unfolded(self, table: Table) -> Table:
        """The table with columns of its own for what the task reads out of the cells of others."""
        return table

    def need_room(self, positions: int | None) -> None:
        """Refuses what the backbone is too short for, before any row is read.

        Args:
            positions: of the backbone; None: any number.

        Raises:
            ConfigError: with the knob.
        """

    def need_rows(self, rows: int) -> None:
        """Refuses so few rows a forward that nothing is learnt of them, before the first step.

        Raises:
            ConfigError: with the knob.
        """

    @abstractmethod
    def headline(self) -> str:
        """The key of the evaluation that picks the best adapter, such as `accuracy`."""


def as_task(task: str | Task) -> Task:
    """A task by name, or as it is.

    Raises:
        UnknownNameError: no such task.
        ConfigError: something that is no task.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, str):
        return find("tasks", task)()  # type: ignore[no-any-return]
    raise ConfigError(f"{task!r} is no task.", expected="A task is a name or an instance of petune.tasks.base.Task.")


CONTRACT = Task
