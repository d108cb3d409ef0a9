"""Conversations: replies to what was said so far, for a decoder such as Llama or Qwen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from petune.errors import ConfigError, DataError
from petune.knobs import knobs
from petune.tasks._columns import Names, cells, columns_found, find_column, named_column, some_rows, usual
from petune.tasks._fronts import asked_of
from petune.tasks._labels import is_missing
from petune.tasks._padding import Side, pad, pad_inputs
from petune.tasks._templates import Conversation, ask, converse, give_template, last_piece
from petune.tasks._texts import need_pad_token, piece_limit, texts_of
from petune.tasks._turns import Turn, need_question, need_reply, need_user, turns_of
from petune.tasks._writing import WritingTask, cut_notice, pieces_of
from petune.tasks.base import IGNORE, Batch, Encoded, Example, Table, Task

MESSAGES = Names(("messages", "conversations"), ("conversation", "dialogue", "dialog", "chat", "turns"))
PROMPT = Names(("prompt", "instruction"), ("question", "query", "statement"))
CONTEXT = Names(("input", "context"), ())
RESPONSE = Names(("response", "output"), ("completion", "answer", "reply"))


@knobs
class Dialogue(WritingTask):
    """Replies in conversations of any number of turns; the loss falls on every reply, and on nothing else.

    A row is a list of messages (`role` and `content`, or ShareGPT's `from` and `value`), or a prompt and its response
    (Alpaca's `instruction`, `input` and `output` too). The tokenizer's chat template makes a text of it; a tokenizer
    without one is given a plain one, which is saved with the adapter. Of a conversation that is too long the front goes
    first, then the end of the last reply.

    Args:
        messages: the column of conversations; None finds it by its name.
        prompt: the column of prompts, where there are no conversations; goes with `response`.
        context: a column with more on the prompt, which may be empty; it follows the prompt after an empty line.
        response: the column of responses.
        system: stands before every conversation that has no system message of its own.
        max_new_tokens, generation: see `WritingTask`.
        max_length: see `Task`.

    Raises:
        ConfigError: for knobs that contradict each other.

    Examples:
        >>> rows = [{"instruction": "Add.", "input": "2 + 2", "output": "4"}]
        >>> learnt = Dialogue().learn(Table(rows, ("instruction", "input", "output")))
        >>> learnt.prompt, learnt.context, learnt.response
        ('instruction', 'input', 'output')
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    side: ClassVar[Side] = "left"
    shifted: ClassVar[bool] = True
    texts_in: ClassVar[tuple[str, ...]] = ("messages", "prompt")
    answers_in: ClassVar[str] = "response"
    converses: ClassVar[bool] = True
    """Whether `Tuner.chat` replies to what was said."""

    messages: str | None = None
    prompt: str | None = None
    context: str | None = None
    response: str | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.messages is not None and (self.prompt is not None or self.response is not None):
            raise ConfigError(
                f"messages={self.messages!r} does not go with a prompt or a response.",
                expected="A row is one conversation, or a prompt and its response.",
                fix="Give messages=..., or prompt=... and response=...",
            )

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in.

        Raises:
            DataError: no rows, or no such column.
        """
        some_rows(table)
        paired = self.prompt is not None or self.response is not None
        if not paired and self.messages is None and not usual(table, MESSAGES):
            paired = bool(usual(table, PROMPT) or usual(table, RESPONSE))
        if not paired:
            return dataclasses.replace(self, messages=find_column(table, self.messages, "messages", MESSAGES))
        prompt = find_column(table, self.prompt, "prompt", PROMPT)
        response = find_column(table, self.response, "response", RESPONSE)
        left = dataclasses.replace(table, columns=tuple(c for c in table.columns if c not in (prompt, response)))
        more = self.context is not None or usual(left, CONTEXT)
        context = find_column(left, self.context, "context", CONTEXT) if more else None
        return dataclasses.replace(self, prompt=prompt, context=context, response=response)

    def chosen(self, given: Task) -> list[str]:
        """The columns that `learn` found."""
        return columns_found(self, given, "messages", "prompt", "context", "response")

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of conversations: each a question, a list of messages, or a row of the columns.

        Raises:
            DataError: a single string, or a single conversation.
        """
        column = self.messages or self.prompt or "messages"
        if isinstance(texts, str | bytes | Mapping):
            raise DataError(
                f"A single {type(texts).__name__} was given.",
                expected="A list of rows was expected.",
                fix="Pass [text].",
            )
        rows = [item if isinstance(item, Mapping) else {column: item} for item in texts]
        if rows and all({"role", "content"} <= set(row) for row in rows) and column not in rows[0]:
            raise DataError(
                "The messages of a single conversation were given.",
                expected="A list of conversations was expected.",
                fix="Pass [messages], or use chat(messages).",
            )
        return Table(rows, tuple(dict.fromkeys((column, *(key for row in rows for key in row)))), "the texts")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples; without labels what was said up to the reply that is to be written.

        Raises:
            DataError: a bad row, with its place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: no pad token, or a chat template by which replies cannot be told.
        """
        self._need_learnt()
        need_pad_token(tokenizer)
        notices, limit = give_template(tokenizer), piece_limit(self.max_length, longest)
        asked = min(limit, longest - self.new_pieces) if longest > self.new_pieces else limit
        rows, places = self._conversations(table, labelled), [table.place(index) for index in range(len(table))]
        if not labelled:
            texts = [ask(turns, tokenizer, place) for turns, place in zip(rows, places, strict=True)]
            prompts = pieces_of(texts, tokenizer, specials=False)
            examples = [_prompt(index, pieces[-asked:]) for index, pieces in enumerate(prompts)]
            lengths, limit = [len(pieces) for pieces in prompts], asked
        else:
            made = converse(rows, places, tokenizer)
            truths = [turns[-1]["content"] for turns in rows]
            examples = [_example(n, *each, limit, asked) for n, each in enumerate(zip(made, truths, strict=True))]
            lengths = [len(conversation.pieces) for conversation in made]
        cut = sum(length > limit for length in lengths)
        return Encoded(examples, notices + cut_notice(table, cut, limit, max(lengths, default=0)))

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (B, T), padded on the right so that every piece has its own position; labels (B, T) int64."""
        need_pad_token(tokenizer)
        inputs = pad_inputs(examples, tokenizer, "right")
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, pad([example["labels"] for example in examples], IGNORE))

    def decoding(self, tokenizer: Any) -> dict[str, Any]:
        """A reply ends with the piece with which the chat template ends replies."""
        give_template(tokenizer)
        found, last = super().decoding(tokenizer), last_piece(tokenizer)
        return found if last is None else {"eos_token_id": list(dict.fromkeys([*found.get("eos_token_id", []), last]))}

    def written(self, pieces: Sequence[int], prompt: int, tokenizer: Any) -> str:
        """The reply, without blanks around it."""
        return super().written(pieces, prompt, tokenizer).strip()

    def text_metrics(self) -> tuple[str, ...]:
        """Of the last reply of each row: ROUGE and chrF."""
        return ("rouge", "chrf")

    def _conversations(self, table: Table, labelled: bool) -> list[list[Turn]]:
        """The turns of each row, checked; of labelled rows those up to the last reply."""
        if labelled:
            some_rows(table)
        column = named_column(table, self.messages or self.prompt or "", "messages" if self.messages else "prompt")
        rows = [turns_of(value, place) for place, value in cells(table, column)]
        if self.prompt is not None:
            self._complete(rows, table, labelled)
        for turns, (place, _) in zip(rows, cells(table, column), strict=True):
            need_user(turns, place)
            (need_reply if labelled else need_question)(turns, place)
            if self.system is not None and turns[0]["role"] != "system":
                turns.insert(0, {"role": "system", "content": self.system})
        if not labelled:
            return rows
        return [turns[: max(n for n, turn in enumerate(turns) if turn["role"] == "assistant") + 1] for turns in rows]

    def _complete(self, rows: list[list[Turn]], table: Table, labelled: bool) -> None:
        """Adds the columns besides the prompt's to the turns."""
        if self.context is not None and self.context in table.columns:
            for turns, (_, value) in zip(rows, cells(table, self.context), strict=True):
                if not is_missing(value) and str(value).strip():
                    turns[-1]["content"] += f"\n\n{str(value).strip()}"
        if labelled:
            for turns, text in zip(
                rows, texts_of(table, named_column(table, self.response or "", "response")), strict=True
            ):
                turns.append({"role": "assistant", "content": text.strip()})

    def _need_learnt(self) -> None:
        if self.messages is None and (self.prompt is None or self.response is None):
            raise ConfigError(
                "The task has not learnt its columns yet.", fix="Call learn(table) with the training rows first."
            )


def _prompt(index: int, pieces: list[int]) -> Example:
    return {"input_ids": pieces, "attention_mask": [1] * len(pieces), "row": index}


def _example(index: int, made: Conversation, truth: str, limit: int, asked: int) -> Example:
    """A conversation within the limit: the front goes first, but for the piece before the last reply; then its end."""
    pieces, labels = list(made.pieces), [IGNORE] * len(made.pieces)
    for first, last in made.replies:
        labels[first:last] = pieces[first:last]
    start = min(max(0, len(pieces) - limit), made.replies[-1][0] - 1)
    kept = slice(start, start + limit)
    example = {**_prompt(index, pieces[kept]), "labels": labels[kept], "_truth": truth}
    return example | asked_of(example, made.prompt[-asked:])
