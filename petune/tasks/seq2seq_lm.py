"""One text into another (translation, summaries), for an encoder-decoder such as T5 or BART."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from petune.errors import ConfigError
from petune.knobs import knobs
from petune.tasks._columns import Names, columns_found, find_column, named_column, some_rows
from petune.tasks._padding import Side, pad, pad_inputs
from petune.tasks._texts import need_pad_token, piece_limit, rows_of, texts_of, tokenize
from petune.tasks._writing import WritingTask, cut_notice, ended, pieces_of
from petune.tasks.base import IGNORE, Batch, Encoded, Example, Table, Task

SOURCE = Names(("source",), ("text", "document", "article", "input", "sentence", "dialogue"))
TARGET = Names(("target",), ("summary", "translation", "output", "highlights", "headline", "title"))
KEPT = ("input_ids", "attention_mask")


@knobs
class Seq2SeqLM(WritingTask):
    """Source texts to target texts.

    Args:
        source: the column of the texts that are read; None finds it by its name.
        target: the column of the texts that are to be written; None finds it by its name.
        prefix: stands before every source, such as T5's `"summarize: "`.
        max_new_tokens, generation: see `WritingTask`.
        max_length: pieces per source and per target; see `Task`.

    Examples:
        >>> table = Table([{"source": "good day", "target": "bonjour"}], ("source", "target"))
        >>> learnt = Seq2SeqLM().learn(table)
        >>> learnt.source, learnt.target
        ('source', 'target')
    """

    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    texts_in: ClassVar[tuple[str, ...]] = ("source",)
    answers_in: ClassVar[str] = "target"
    side: ClassVar[Side] = "right"
    shifted: ClassVar[bool] = False

    source: str | None = None
    target: str | None = None
    prefix: str = ""

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in.

        Raises:
            DataError: no rows, or no such column.
        """
        some_rows(table)
        return dataclasses.replace(
            self,
            source=find_column(table, self.source, "source", SOURCE),
            target=find_column(table, self.target, "target", TARGET),
        )

    def chosen(self, given: Task) -> list[str]:
        """The columns that `learn` found."""
        return columns_found(self, given, "source", "target")

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of sources.

        Raises:
            DataError: a single string.
        """
        columns = (self.source or "source",)
        return Table(rows_of(texts, columns), columns, "the texts")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples; sources and targets above the limit are cut at their end, and counted.

        Raises:
            DataError: a bad text, with the row's place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: the tokenizer has no pad token.
        """
        self._need_learnt()
        need_pad_token(tokenizer)
        limit = piece_limit(self.max_length, longest)
        if labelled:
            some_rows(table)
        sources = texts_of(table, named_column(table, self.source or "", "source"))
        read = tokenize([self.prefix + text for text in sources], None, tokenizer, limit)
        examples: list[Example] = [{key: row[key] for key in KEPT if key in row} for row in read.rows]
        for index, example in enumerate(examples):
            example["row"] = index
        notices = cut_notice(table, read.cut, limit, read.longest)
        if labelled:
            targets = texts_of(table, named_column(table, self.target or "", "target"))
            end = tokenizer.eos_token_id
            # mBART marks the language after the end.
            plain = pieces_of(targets, tokenizer, role="text_target")
            written = [row if end in row[-2:] else ended(row, tokenizer) for row in plain]
            for example, row, target in zip(examples, written, targets, strict=True):
                last = [] if len(row) <= limit or row[-1] == end else row[-1:]
                example |= {"labels": [*row[: limit - len(last)], *last], "_truth": target}
            lengths = [len(row) for row in written]
            cut = sum(length > limit for length in lengths)
            notices += [f"Targets in {notice}" for notice in cut_notice(table, cut, limit, max(lengths))]
        return Encoded(examples, notices)

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (B, T); labels (B, T') int64, also among the inputs as `decoder_labels`: the model reads them shifted,
        and it alone knows with which piece its decoder starts."""
        need_pad_token(tokenizer)
        inputs = pad_inputs(examples, tokenizer, "right")
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        labels = pad([example["labels"] for example in examples], IGNORE)
        return Batch({**inputs, "decoder_labels": labels}, labels)

    def _need_learnt(self) -> None:
        if self.source is None or self.target is None:
            raise ConfigError(
                "The task has not learnt its columns yet.", fix="Call learn(table) with the training rows first."
            )
