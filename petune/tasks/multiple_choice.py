"""A question and some options to the option that is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from petune.errors import ConfigError, DataError
from petune.knobs import knobs
from petune.lookup import near
from petune.tasks._columns import Names, cells, columns_found, find_column, named_column, some_rows
from petune.tasks._options import ALL, LISTS, option_columns, options_of, right_one
from petune.tasks._several import pad_parts, parts_of, places, several, split_parts
from petune.tasks._texts import need_pad_token, piece_limit, rows_of, texts_of, tokenize
from petune.tasks.base import Batch, Encoded, Example, Table, Task

QUESTION = Names(("question",), ("context", "prompt", "premise", "goal", "sent1", "startphrase", "text", "query"))
LABEL = Names(("label", "answer"), ("answerkey", "target", "gold", "correct"))


@knobs
class MultipleChoice(Task):
    """Chooses one of the options that a row offers; rows may offer different numbers of them.

    Each option is read together with the question, as a pair of texts, and gets one number; a softmax over the options
    of its row makes them probabilities (Devlin et al. 2019, arXiv:1810.04805, section 4.4). The shell is a sequence
    classifier with a single output, so every backbone that can classify can choose, decoders too.

    Args:
        question: the column of questions; None finds it by its name.
        options: the column of lists of options, or several columns that hold one option each; None finds them.
        label: the column of what is right: an option's text, its number from 0, or its letter.
        max_length: see `Task`.

    Raises:
        ConfigError: labels.

    Examples:
        >>> row = {"question": "What is the sky?", "options": ["blue", "square"], "answer": "A"}
        >>> learnt = MultipleChoice().learn(Table([row], tuple(row)))
        >>> learnt.question, learnt.options, learnt.label
        ('question', ('options',), 'answer')
    """

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"

    question: str | None = None
    options: tuple[str, ...] | str = ()
    label: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.options,) if isinstance(self.options, str) else tuple(self.options)
        object.__setattr__(self, "options", given)
        if self.labels:
            raise ConfigError("Multiple choice has no labels: each row has options of its own.", fix="Drop labels=...")

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in.

        Raises:
            DataError: no rows, or no such column.
        """
        some_rows(table)
        columns = tuple(named_column(table, name, "options") for name in self.options) or option_columns(table)
        if not columns:
            raise DataError(
                f"{table.source} has no column with a usual name for options.",
                expected=f"Usual are {', '.join(LISTS)}, or several such as ending0, ending1; its columns are "
                f"{', '.join(map(repr, table.columns))}.",
                fix=f"{near('options', table.columns)} Pass options=... with one of them, or several.",
            )
        rest = dataclasses.replace(table, columns=tuple(name for name in table.columns if name not in columns))
        return dataclasses.replace(
            self,
            question=find_column(rest, self.question, "question", QUESTION),
            options=columns,
            label=find_column(rest, self.label, "label", LABEL),
        )

    def chosen(self, given: Task) -> list[str]:
        """The columns that `learn` found."""
        assert isinstance(given, MultipleChoice)
        said = columns_found(self, given, "question", "label")
        if not given.options:
            said.append(f"options: {', '.join(map(repr, self.options))} (options=... names others).")
        return said

    def strata(self, table: Table) -> list[set[str]] | None:
        """None: options are no classes."""
        return None

    # ------------------------------------------------------------------ rows to batches

    def model_config(self) -> dict[str, Any]:
        """One output: how well an option fits."""
        return {"num_labels": 1}

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of (question, options), or dicts with the columns of training.

        Raises:
            DataError: a single string, or a row that is no such pair.
        """
        columns = (self.question or "question", self.options[0] if len(self.options) == 1 else ALL)
        return Table(rows_of(texts, columns), columns, "the texts")

    def specimen(self) -> dict[str, Any]:
        """A question and two options, in their columns."""
        names, two = self.options, ("one", "another")
        offered: dict[str, Any] = {names[0]: [*two]} if len(names) == 1 else dict(zip(names, two, strict=False))
        return {self.question or "question": "...", **offered}

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples with a part for each option; parts above the limit are cut, and counted.

        Raises:
            DataError: a bad question, option or label, with the row's place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: the tokenizer has no pad token.
        """
        self._need_learnt()
        need_pad_token(tokenizer)
        limit = piece_limit(self.max_length, longest)
        if labelled:
            some_rows(table)
        questions = texts_of(table, named_column(table, self.question or "", "question"))
        offered = [options_of(table.place(row), table.rows[row], self.options) for row in range(len(table))]
        right: list[int] = []
        if labelled:
            column = named_column(table, self.label or "", "label")
            said = zip(offered, cells(table, column), strict=True)
            right = [right_one(value, *offer, place) for offer, (place, value) in said]
        pairs = [(questions[row], option) for row, (options, _) in enumerate(offered) for option in options]
        pieces = tokenize([one for one, _ in pairs], [two for _, two in pairs], tokenizer, limit)
        parts = iter(pieces.rows)
        examples = []
        for row, (options, _) in enumerate(offered):
            example = several([next(parts) for _ in options], row, _options=options)
            examples.append(example | ({"labels": right[row]} if labelled else {}))
        notices = []
        if pieces.cut:
            notices.append(
                f"{table.source}: {pieces.cut} of {len(pairs)} questions with an option were longer than {limit} pieces"
                f" and were cut (longest {pieces.longest})."
            )
        return Encoded(examples, notices)

    def parts(self, example: Example) -> list[Example]:
        """One for each option."""
        return parts_of(example)

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (P, T) of all options of all rows; labels (B, K) int64, the rows' options as places in P.

        The first place of a row is that of its right option; -1 fills up rows that have fewer options than others.
        """
        need_pad_token(tokenizer)
        inputs = pad_parts(examples, tokenizer)
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        labels = places(examples)
        for row, example in enumerate(examples):
            right = example["labels"]
            labels[row, [0, right]] = labels[row, [right, 0]]
        return Batch(inputs, labels)

    # ------------------------------------------------------------------ (logits, labels) to a loss

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum over rows of the cross-entropy among a row's options.

        Args:
            logits: (P, 1).
            labels: (B, K), as `collate` makes them.
            label_smoothing: towards one over the number of the row's options.

        Raises:
            ConfigError: class weights.
        """
        if class_weight is not None:
            raise _no_classes()
        there = labels >= 0
        scores = logits.float().squeeze(-1)[labels.clamp_min(0)].masked_fill(~there, -torch.inf)
        logs = functional.log_softmax(scores, dim=-1)
        even = logs.masked_fill(~there, 0.0).sum(-1) / there.sum(-1)
        return -((1 - label_smoothing) * logs[:, 0] + label_smoothing * even).sum()

    def count(self, example: Example) -> int:
        """One supervised item per row."""
        return 1

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """There are none.

        Raises:
            ConfigError: always.
        """
        raise _no_classes()

    # ------------------------------------------------------------------ logits to answers

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(P, 1) to one array (options,) float32 per row."""
        return split_parts(logits.squeeze(-1), examples)

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[str]:
        """Per row the text of the best option."""
        return [example["_options"][int(row.argmax())] for row, example in zip(logits, examples, strict=True)]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[np.ndarray]:
        """Per row (options,) float32 in the order of its options; they sum to 1."""
        return [torch.from_numpy(np.asarray(row, dtype=np.float32)).softmax(-1).numpy() for row in logits]

    def references(self, examples: Sequence[Example]) -> list[str]:
        """The text of each row's right option."""
        return [example["_options"][example["labels"]] for example in examples]

    def default_metrics(self) -> tuple[str, ...]:
        """The share of rows answered right."""
        return ("accuracy",)

    def headline(self) -> str:
        """The accuracy picks the best adapter."""
        return "accuracy"

    def _need_learnt(self) -> None:
        if self.question is None or not self.options:
            raise ConfigError(
                "The task has not learnt its columns yet.", fix="Call learn(table) with the training rows first."
            )


def _no_classes() -> ConfigError:
    return ConfigError(
        "class_weight has no meaning for multiple choice: options are no classes.", fix="Drop class_weight."
    )
