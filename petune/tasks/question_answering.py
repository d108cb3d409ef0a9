"""A question and a context to the part of the context that answers it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.tasks._answers import Gold, gold_of, is_empty
from petune.tasks._columns import Names, cells, columns_found, find_column, named_column, some_rows, usual
from petune.tasks._padding import Side, pad_inputs
from petune.tasks._spans import Answer, by_row, ranked
from petune.tasks._texts import need_fast, need_pad_token, piece_limit, rows_of, texts_of
from petune.tasks._windows import Window, places_of, windows
from petune.tasks.base import Batch, Encoded, Example, Table, Task

QUESTION = Names(("question",), ("query", "questions"))
CONTEXT = Names(("context",), ("passage", "paragraph", "document", "article", "text"))
ANSWERS = Names(("answers",), ("answer",))
START = Names(("answer_start",), ("start",))
__all__ = ["Answer", "QuestionAnswering"]
PADDED = -1e4
"""The logit of padding: no probability, and no overflow in half precision."""


@knobs
class QuestionAnswering(Task):
    """Answers questions by a part of their context (Rajpurkar et al. 2016, arXiv:1606.05250), or not at all.

    Rows are SQuAD's: question, context, answers; files in its own nested form are read as well. A context that is too
    long becomes several windows, and the best span of all of them is the answer. Where training rows have no answer
    (Rajpurkar et al. 2018, arXiv:1806.03822), the first piece stands for "no answer".

    Args:
        question, context: the columns; None finds each by its name.
        answer: the column of answers: SQuAD's dicts, or plain texts; an empty one says that there is none.
        answer_start: the column of offsets in characters, for plain texts; None finds it, or looks for the text.
        no_answer: whether "no answer" may be an answer; None: whether training rows had none.
        no_answer_threshold: by how much the logits of no answer must exceed those of the best span.
        stride: pieces that a window shares with the one before it, at most half of its room.
        max_answer_length: pieces of an answer at most.
        n_best: how many answers `predict_proba` gives for a row.
        max_length: see `Task`.

    Raises:
        ConfigError: a knob out of range, or labels.

    Examples:
        >>> row = {"question": "Where is she?", "context": "She is in Oslo.", "answers": "Oslo"}
        >>> learnt = QuestionAnswering().learn(Table([row], tuple(row)))
        >>> learnt.question, learnt.answer, learnt.no_answer
        ('question', 'answers', False)
    """

    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    side: ClassVar[Side] = "right"
    texts_in: ClassVar[tuple[str, ...]] = ("question", "context")

    question: str | None = None
    context: str | None = None
    answer: str | None = None
    answer_start: str | None = None
    no_answer: bool | None = None
    no_answer_threshold: float = 0.0
    stride: int = 128
    max_answer_length: int = 30
    n_best: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.stride >= 0, "stride", self.stride, "at least 0")
        check(self.max_answer_length >= 1, "max_answer_length", self.max_answer_length, "at least 1")
        check(self.n_best >= 1, "n_best", self.n_best, "at least 1")
        if self.labels:
            raise ConfigError("Question answering has no labels.", fix="Drop labels=...")

    # ------------------------------------------------------------------ learning from the training rows

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in, and that knows whether questions may have no answer.

        Raises:
            DataError: no rows, no such column.
        """
        some_rows(table)
        answers = find_column(table, self.answer, "answer", ANSWERS)
        found = dataclasses.replace(
            self,
            question=find_column(table, self.question, "question", QUESTION),
            context=find_column(table, self.context, "context", CONTEXT),
            answer=answers,
        )
        if self.answer_start is not None or usual(table, START):
            start = find_column(table, self.answer_start, "answer_start", START)
            found = dataclasses.replace(found, answer_start=start)
        if self.no_answer is None:
            found = dataclasses.replace(found, no_answer=any(is_empty(*cell) for cell in cells(table, answers)))
        return found

    def chosen(self, given: Task) -> list[str]:
        """The columns, and whether questions may have no answer."""
        assert isinstance(given, QuestionAnswering)
        said = columns_found(self, given, "question", "context", "answer", "answer_start")
        if given.no_answer is None and self.no_answer:
            said.append("Some rows have no answer, so that may be the answer (no_answer=False says otherwise).")
        return said

    def strata(self, table: Table) -> list[set[str]] | None:
        """None: texts have no classes."""
        return None

    # ------------------------------------------------------------------ rows to batches

    def model_config(self) -> dict[str, Any]:
        """Two outputs a piece: that an answer starts there, and that it ends there."""
        return {"num_labels": 2}

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of (question, context), or dicts with the columns of training.

        Raises:
            DataError: a single string, or a row that is no pair.
        """
        columns = (self.question or "question", self.context or "context")
        return Table(rows_of(texts, columns), columns, "the texts")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to windows; a window without its row's answer learns "no answer".

        Raises:
            DataError: an empty question, an answer that is not in its context, with the row's place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: a slow tokenizer, or one without a pad token.
        """
        self._need_learnt()
        need_fast(tokenizer, "Answers are found by the characters of their pieces, which only fast tokenizers tell.")
        need_pad_token(tokenizer)
        limit = piece_limit(self.max_length, longest)
        questions = texts_of(table, named_column(table, self.question or "", "question"))
        contexts = texts_of(table, named_column(table, self.context or "", "context"))
        gold = self._gold(table, contexts) if labelled else None
        examples: list[Example] = []
        several = 0
        for row, found in enumerate(windows(questions, contexts, tokenizer, limit, self.stride)):
            several += len(found) > 1
            examples += [_example(row, window, contexts[row], None if gold is None else gold[row]) for window in found]
        return Encoded(examples, _notices(table, several, len(examples), limit, gold))

    def _gold(self, table: Table, contexts: Sequence[str]) -> list[Gold]:
        some_rows(table)
        column = named_column(table, self.answer or "", "answer")
        return [
            gold_of(place, value, table.rows[row].get(self.answer_start) if self.answer_start else None, contexts[row])
            for row, (place, value) in enumerate(cells(table, column))
        ]

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (B, T), padded on the right; labels (B, 2) int64, where the answer starts and ends, 0 for none."""
        inputs = pad_inputs(examples, tokenizer, "right")
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, torch.tensor([example["labels"] for example in examples], dtype=torch.int64))

    # ------------------------------------------------------------------ (logits, labels) to a loss

    def logits(self, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, T, 2): whether an answer starts and ends at each piece; padding has no chance."""
        both = torch.stack([output.start_logits, output.end_logits], dim=-1)
        return both.masked_fill(inputs["attention_mask"].unsqueeze(-1) == 0, PADDED)

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum over windows of the mean of the two cross-entropies, of the start and of the end.

        Args:
            logits: (B, T, 2).
            labels: (B, 2) int64.

        Raises:
            ConfigError: smoothing or weights.
        """
        if label_smoothing or class_weight is not None:
            raise _no_classes("label_smoothing" if label_smoothing else "class_weight")
        return functional.cross_entropy(logits.float(), labels, reduction="sum") / 2

    def count(self, example: Example) -> int:
        """One per window."""
        return 1

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """There are none.

        Raises:
            ConfigError: always.
        """
        raise _no_classes("class_weight")

    # ------------------------------------------------------------------ logits to answers

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(B, T, 2) to one array (pieces, 2) float32 per window."""
        rows = logits.detach().float().cpu().numpy()
        return [row[: len(example["input_ids"])] for row, example in zip(rows, examples, strict=True)]

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Answer]:
        """Per row the best `Answer`: no answer only where its logits exceed the best span's by the threshold."""
        return [self._ranked(row, 1)[0] for row in by_row(logits, examples)]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[list[Answer]]:
        """Per row up to `n_best` answers, the likeliest first, each with its probability as `score`."""
        found = (self._ranked(row, self.n_best) for row in by_row(logits, examples))
        return [sorted(row, key=lambda answer: -answer.score)[: self.n_best] for row in found]

    def _ranked(self, row: list[tuple[np.ndarray, Example]], n: int) -> list[Answer]:
        threshold = self.no_answer_threshold if self.no_answer else None
        return ranked(row, n, longest=self.max_answer_length, threshold=threshold)

    def references(self, examples: Sequence[Example]) -> list[list[str]]:
        """Per row all right answers; `[""]` where there is none."""
        return [row[0][1]["_gold"] or [""] for row in by_row(examples, examples)]

    def ideal(self, examples: Sequence[Example]) -> list[str]:
        """The first right answer of each row."""
        return [right[0] for right in self.references(examples)]

    # ------------------------------------------------------------------ evaluation

    def default_metrics(self) -> tuple[str, ...]:
        """SQuAD's own two."""
        return ("exact_match", "token_f1")

    def headline(self) -> str:
        """The F1 of the words picks the best adapter."""
        return "token_f1"

    def _need_learnt(self) -> None:
        if self.question is None or self.context is None:
            raise ConfigError(
                "The task has not learnt its columns yet.", fix="Call learn(table) with the training rows first."
            )


def _example(row: int, window: Window, context: str, gold: Gold | None) -> Example:
    about = {"row": row, "_first": window.first, "_offsets": window.offsets, "_context": context}
    if gold is None:
        return {**window.pieces, **about}
    found = places_of(window, *gold.spans[0][1:]) if gold.spans else None
    return {**window.pieces, **about, "labels": list(found or (0, 0)), "_gold": [span.text for span in gold.spans]}


def _notices(table: Table, several: int, examples: int, limit: int, gold: Sequence[Gold] | None) -> list[str]:
    said = []
    if several:
        said.append(
            f"{table.source}: {several} of {len(table)} rows were longer than {limit} pieces and are read in several"
            f" windows ({examples} in all); nothing is lost."
        )
    if guessed := sum(one.guessed for one in gold or ()):
        said.append(f"{table.source}: {guessed} answers without an offset occur several times; the first was taken.")
    return said


def _no_classes(knob: str) -> ConfigError:
    return ConfigError(f"{knob} has no meaning for answers in a context.", fix=f"Drop {knob}.")
