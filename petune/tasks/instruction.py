"""Instructions and the responses to them, for a decoder such as Llama or Qwen."""

from __future__ import annotations

import dataclasses
from typing import Self

from petune.knobs import knobs
from petune.tasks._columns import find_column, some_rows
from petune.tasks.base import Table
from petune.tasks.dialogue import PROMPT, RESPONSE, Dialogue


@knobs
class Instruction(Dialogue):
    """Responses to prompts: a `Dialogue` of one question and one reply a row, in two columns or three.

    Args:
        prompt: the column of instructions; None finds it by its name.
        context: a column with more on the instruction (Alpaca's `input`), which may be empty.
        response: the column of responses.
        messages, system, max_new_tokens, generation, max_length: see `Dialogue`; named `messages` are read as there.

    Examples:
        >>> learnt = Instruction().learn(Table([{"question": "2 + 2?", "answer": "4"}], ("question", "answer")))
        >>> learnt.prompt, learnt.response
        ('question', 'answer')
    """

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in.

        Raises:
            DataError: no rows, or no such column.
        """
        if self.messages is not None:
            return super().learn(table)
        some_rows(table)
        prompt = find_column(table, self.prompt, "prompt", PROMPT)
        response = find_column(table, self.response, "response", RESPONSE)
        return super(Instruction, dataclasses.replace(self, prompt=prompt, response=response)).learn(table)
