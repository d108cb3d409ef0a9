"""Conversations to pieces by the tokenizer's chat template, and which pieces are the assistant's, exactly.

A template that marks replies (`{% generation %}`) says so itself. Of any other the pieces are compared:

    pieces(turns before a reply, and its opening)   must begin   pieces(all turns)
    pieces(turns up to and with a reply)            must begin   pieces(all turns)

and the reply is what lies between. Then what is learnt is also just what a prediction is asked and should write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

from petune.errors import BackboneError, DataError, PetuneError
from petune.tasks._turns import Turn
from petune.tasks._writing import pieces_of

PLAIN = (
    "{{ bos_token if bos_token else '' }}"
    "{%- for message in messages -%}"
    "{{ message['role'] + ':\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ message['content'] + (eos_token if eos_token else '') }}{%- endgeneration -%}"
    "{{ '\n\n' }}"
    "{%- else -%}{{ message['content'] + '\n\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant:\n' }}{%- endif -%}"
)
"""For tokenizers without a chat template: names and contents as plain text, a reply ended by the end piece."""
MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
PROBE = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


class Conversation(NamedTuple):
    """A conversation in pieces.

    Args:
        pieces: all of them, up to the end of the last reply.
        replies: first and last + 1 of each reply, its end piece included.
        prompt: what a prediction would be asked for the last reply.
    """

    pieces: list[int]
    replies: list[tuple[int, int]]
    prompt: list[int]


def give_template(tokenizer: Any) -> list[str]:
    """Gives a tokenizer without a chat template the plain one; what is to be said of that."""
    if getattr(tokenizer, "chat_template", None):
        return []
    tokenizer.chat_template = PLAIN
    end = (
        "" if tokenizer.eos_token else " It has no end-of-sequence piece either, so replies will not end by themselves."
    )
    return [f"The tokenizer has no chat template: a plain one is used, and saved with the adapter.{end}"]


def ask(turns: Sequence[Turn], tokenizer: Any, place: str) -> str:
    """The text of turns, with the opening of a reply."""
    return _rendered(turns, tokenizer, place, opened=True)


def converse(rows: Sequence[Sequence[Turn]], places: Sequence[str], tokenizer: Any) -> list[Conversation]:
    """Every conversation in pieces, the last turn of each being a reply.

    Raises:
        DataError: a conversation that the template refuses, with its row.
        BackboneError: a template by which it cannot be told where a reply begins and ends.
    """
    if tokenizer.is_fast and MARK.search(tokenizer.get_chat_template()):
        return _by_marks(rows, places, tokenizer)
    return _by_beginnings(rows, places, tokenizer)


def last_piece(tokenizer: Any) -> int | None:
    """The special piece with which the template ends a reply; None: it ends with a plain one, or cannot be asked."""
    try:
        (probe,) = converse([list(PROBE)], ["a probe of the chat template"], tokenizer)
    except PetuneError:  # it wants more than a question and a reply
        return None
    special = [piece for piece in probe.pieces[slice(*probe.replies[-1])] if piece in tokenizer.all_special_ids]
    return special[-1] if special else None


def _rendered(turns: Sequence[Turn], tokenizer: Any, place: str, *, opened: bool = False) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=opened))
    except Exception as error:  # whatever a template that others wrote may raise
        raise _refused(place, error) from error


def _by_marks(rows: Sequence[Sequence[Turn]], places: Sequence[str], tokenizer: Any) -> list[Conversation]:
    """What the template marks; transformers' own mask is not used, as it runs on to the end after a blank."""
    asked = pieces_of([ask(r[:-1], tokenizer, p) for r, p in zip(rows, places, strict=True)], tokenizer, specials=False)
    found = []
    for turns, place, prompt in zip(rows, places, asked, strict=True):
        try:
            (text,), (spans,) = render_jinja_template(
                conversations=[list(turns)],
                chat_template=tokenizer.get_chat_template(),
                return_assistant_tokens_mask=True,
                **tokenizer.special_tokens_map,
            )
        except Exception as error:  # whatever a template that others wrote may raise
            raise _refused(place, error) from error
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        replies = [_covered(made["offset_mapping"], *span) for span in spans]
        if len(replies) != sum(turn["role"] == "assistant" for turn in turns) or any(a >= b for a, b in replies):
            raise _unclear(place, "It does not mark every reply.")
        found.append(Conversation(made["input_ids"][: replies[-1][1]], replies, prompt))
    return found


def _covered(offsets: Sequence[tuple[int, int]], first: int, last: int) -> tuple[int, int]:
    """The pieces that have letters of a span of the text."""
    inside = [number for number, (start, end) in enumerate(offsets) if start < last and end > first and start < end]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _by_beginnings(rows: Sequence[Sequence[Turn]], places: Sequence[str], tokenizer: Any) -> list[Conversation]:
    texts: list[str] = []
    for turns, place in zip(rows, places, strict=True):
        texts.append(_rendered(turns, tokenizer, place))
        for number in _replies(turns):
            texts.append(ask(turns[:number], tokenizer, place))
            texts.append(_rendered(turns[: number + 1], tokenizer, place))
    made = iter(pieces_of(texts, tokenizer, specials=False))
    return [_compared(next(made), [(next(made), next(made)) for _ in _replies(turns)], tokenizer, place)
            for turns, place in zip(rows, places, strict=True)]  # fmt: skip


def _replies(turns: Sequence[Turn]) -> list[int]:
    return [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]


def _compared(whole: list[int], parts: list[tuple[list[int], list[int]]], tokenizer: Any, place: str) -> Conversation:
    """The replies of a conversation from the pieces before each, and from those up to its end."""
    replies = []
    for before, after in parts:
        if whole[: len(before)] != before or whole[: len(after)] != after or len(before) >= len(after):
            raise _unclear(place, "It writes a turn otherwise once others follow, or joins a reply to what is before.")
        replies.append((len(before), _end(whole, len(before), len(after), tokenizer)))
    return Conversation(whole[: replies[-1][1]], replies, parts[-1][0])


def _end(pieces: list[int], first: int, last: int, tokenizer: Any) -> int:
    """Where a reply ends: with its last special piece, if only blanks follow that."""
    special = [place for place in range(first, last) if pieces[place] in tokenizer.all_special_ids]
    if special and not tokenizer.decode(pieces[special[-1] + 1 : last]).strip():
        return special[-1] + 1
    return last


def _refused(place: str, error: Exception) -> DataError:
    return DataError(f"{place}: the tokenizer's chat template refuses the conversation: {error}.")


def _unclear(place: str, why: str) -> BackboneError:
    return BackboneError(
        f"{place}: the tokenizer's chat template does not tell where a reply begins and ends. {why}",
        expected="The loss falls on replies alone, exact to the piece.",
        fix="Mark replies by {% generation %} in tokenizer.chat_template, or keep one reply a row.",
    )
