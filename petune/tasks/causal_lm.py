"""Texts, or prompts and what follows them, for a decoder such as GPT-2, Llama or Qwen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from petune.errors import ConfigError
from petune.knobs import knobs
from petune.tasks._columns import TEXT, Names, columns_found, find_column, named_column, some_rows, usual
from petune.tasks._fronts import Row, asked_of, cut_to, example_of
from petune.tasks._packing import STARTS, blocks, packed_notice
from petune.tasks._padding import Side, pad, pad_inputs
from petune.tasks._texts import need_pad_token, piece_limit, rows_of, texts_of
from petune.tasks._writing import WritingTask, cut_notice, ended, pieces_of, unended
from petune.tasks.base import IGNORE, Batch, Encoded, Example, Table, Task

PROMPT = Names(("prompt",), ("instruction", "question", "input", "query"))
COMPLETION = Names(("completion",), ("response", "answer", "output", "reply"))


@knobs
class CausalLM(WritingTask):
    """Foretells the next piece: of whole texts, or of completions, given their prompts.

    Every text and completion ends with the tokenizer's end-of-sequence piece, so that the model learns to stop. Of a
    row that is too long the front of its prompt goes first, then the end of its text or completion. With `packing`
    whole texts are laid end to end and cut into blocks of `max_length` pieces: no padding, and nothing is cut off.

    Args:
        text: the column of whole texts; None finds it by its name.
        prompt: the column of prompts, on which no loss falls; goes with `completion`.
        completion: the column of what follows. With neither named, both are found by their names.
        packing: True: texts share blocks, and none sees another: the loss is that of each by itself, of families that
            can (GPT-2, Llama, Qwen2, Qwen3). `"mixed"`: a piece sees all of its block before it, other texts too, as
            most scripts do it; any decoder can.
        max_new_tokens, generation: see `WritingTask`.
        max_length: see `Task`.

    Raises:
        ConfigError: for knobs that contradict each other.

    Examples:
        >>> table = Table([{"prompt": "2 + 2 =", "completion": " 4"}], ("prompt", "completion"))
        >>> learnt = CausalLM(max_new_tokens=4).learn(table)
        >>> learnt.prompt, learnt.completion, learnt.options()
        ('prompt', 'completion', {'max_new_tokens': 4})
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    texts_in: ClassVar[tuple[str, ...]] = ("text", "prompt")
    answers_in: ClassVar[str] = "completion"
    side: ClassVar[Side] = "left"
    shifted: ClassVar[bool] = True
    plain: ClassVar[bool] = True

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    packing: bool | Literal["mixed"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is not None and (self.prompt is not None or self.completion is not None):
            raise ConfigError(
                f"text={self.text!r} does not go with a prompt or a completion.",
                expected="A row is one text, or a prompt and its completion.",
                fix="Give text=..., or prompt=... and completion=...",
            )
        if self.packing and (self.prompt is not None or self.completion is not None):
            raise self._unpackable()

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in.

        Raises:
            DataError: no rows, or no such column.
        """
        some_rows(table)
        paired = self.prompt is not None or self.completion is not None
        if not paired and self.text is None and "text" not in table.columns:
            paired = bool(usual(table, PROMPT) and usual(table, COMPLETION))
        if not paired:
            return dataclasses.replace(self, text=find_column(table, self.text, "text", TEXT))
        if self.packing:
            raise self._unpackable()
        return dataclasses.replace(
            self,
            prompt=find_column(table, self.prompt, "prompt", PROMPT),
            completion=find_column(table, self.completion, "completion", COMPLETION),
        )

    def chosen(self, given: Task) -> list[str]:
        """The columns that `learn` found."""
        return columns_found(self, given, "text", "prompt", "completion")

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of prompts, or of texts to go on with.

        Raises:
            DataError: a single string.
        """
        columns = (self.prompt or self.text or "text",)
        return Table(rows_of(texts, columns), columns, "the texts")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples; without labels their prompts (or texts) alone, of which the last pieces are kept.

        Raises:
            DataError: a bad text, with the row's place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: the tokenizer has no pad token.
        """
        self._need_learnt()
        need_pad_token(tokenizer)
        limit = piece_limit(self.max_length, longest)
        # Room for what is to be written; `need_room` has refused what leaves none.
        asked = min(limit, longest - self.new_pieces) if longest > self.new_pieces else limit
        if labelled:
            some_rows(table)
        prompted = self.prompt is not None
        knob, column = ("prompt", self.prompt) if prompted else ("text", self.text)
        texts = texts_of(table, named_column(table, column or "", knob))
        fronts = [unended(pieces, tokenizer) for pieces in pieces_of(texts, tokenizer)]
        if not labelled:
            rows: list[Row] = [(front, []) for front in fronts]
            cut = [example_of(index, cut_to(row, asked), labelled) for index, row in enumerate(rows)]
            return Encoded(cut, self._notices(table, rows, asked))
        if not prompted and self.packing:
            stream = [ended(front, tokenizer) for front in fronts]
            return Encoded(blocks(stream, limit, apart=self.packing is True), [packed_notice(table, stream, limit)])
        if not prompted:
            rows = [([], ended(front, tokenizer)) for front in fronts]
            return Encoded(
                [example_of(index, cut_to(row, limit), labelled) for index, row in enumerate(rows)],
                self._notices(table, rows, limit),
            )
        ends = texts_of(table, named_column(table, self.completion or "", "completion"))
        later = pieces_of(ends, tokenizer, specials=False)
        rows = [(front, ended(end, tokenizer)) for front, end in zip(fronts, later, strict=True)]
        examples = [example_of(index, cut_to(row, limit), labelled) for index, row in enumerate(rows)]
        for example, (front, _), truth in zip(examples, rows, ends, strict=True):
            example |= {**asked_of(example, front[-asked:]), "_truth": truth}
        return Encoded(examples, self._notices(table, rows, limit))

    def _notices(self, table: Table, rows: Sequence[Row], limit: int) -> list[str]:
        lengths = [len(front) + len(end) for front, end in rows]
        return cut_notice(table, sum(n > limit for n in lengths), limit, max(lengths, default=0))

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (B, T), padded on the right so that every piece has its own position; labels (B, T) int64."""
        need_pad_token(tokenizer)
        inputs = pad_inputs(examples, tokenizer, "right")
        if STARTS in examples[0]:
            inputs[STARTS] = pad([example[STARTS] for example in examples], -1)
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, pad([example["labels"] for example in examples], IGNORE))

    def _need_learnt(self) -> None:
        if self.text is None and (self.prompt is None or self.completion is None):
            raise ConfigError(
                "The task has not learnt its columns yet.", fix="Call learn(table) with the training rows first."
            )

    def _unpackable(self) -> ConfigError:
        return ConfigError(
            f"packing={self.packing!r} does not go with prompts and completions.",
            expected="Whole texts are packed: a block may end anywhere in a text, but not between question and answer.",
            fix="Drop packing (training leaves padding out anyhow), or name text=...",
        )
