"""Conversations as people keep them, in one form: a list of turns with a role and a content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from petune.errors import DataError
from petune.lookup import near
from petune.tasks._columns import need_characters
from petune.tasks._labels import is_missing

Turn = dict[str, str]
"""`role` and `content`."""
ROLES = ("system", "user", "assistant")
ALSO = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Names of roles in ShareGPT's files and others."""
KEYS = (("role", "content"), ("from", "value"))
"""By what a turn says who speaks, and what: as chat models have it, and as ShareGPT has it."""


def turns_of(value: Any, place: str) -> list[Turn]:
    """The turns of one cell: a list of mappings, the same as JSON, or one question as a string.

    Blanks around a content are dropped: a reply begins with its first letter.

    Raises:
        DataError: no list of turns, an unknown role, an empty content, with the row and the turn.

    Examples:
        >>> turns_of([{"from": "human", "value": "Hello "}, {"from": "gpt", "value": "Hi."}], "row 0")
        [{'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Hi.'}]
    """
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = _from_json(value, place)
    if isinstance(value, str):
        return [{"role": "user", "content": _content(value, f"{place}: the question")}]
    plain = value.tolist() if hasattr(value, "tolist") else value
    if is_missing(plain) or isinstance(plain, Mapping | bytes) or not isinstance(plain, Iterable):
        raise DataError(
            f"{place}: {plain!r} is no conversation.",
            expected="A conversation is a list of turns, such as {'role': 'user', 'content': 'Hello'}.",
        )
    return [_turn(turn, f"{place}, turn {number}") for number, turn in enumerate(plain)]


def _from_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: the conversation is no JSON: {error}.") from None


def _turn(turn: Any, place: str) -> Turn:
    keys = next((keys for keys in KEYS if isinstance(turn, Mapping) and set(keys) <= set(turn)), None)
    if keys is None:
        told = f"has the keys {', '.join(map(repr, turn))}" if isinstance(turn, Mapping) else f"is {turn!r}"
        raise DataError(
            f"{place}: the turn {told}.",
            expected="It was expected to have 'role' and 'content', or 'from' and 'value'.",
        )
    role, content = turn[keys[0]], turn[keys[1]]
    known = ALSO.get(str(role).lower(), str(role).lower())
    if known not in ROLES:
        raise DataError(
            f"{place}: there is no role {role!r}.",
            expected=f"Roles are {', '.join(ROLES)}.",
            fix=near(str(role), [*ROLES, *ALSO]),
        )
    return {"role": known, "content": _content(content, f"{place}: the content")}


def _content(content: Any, what: str) -> str:
    if not isinstance(content, str):
        raise DataError(f"{what} is {content!r}, a {type(content).__name__}.", expected="A string was expected.")
    if not content.strip():
        raise DataError(f"{what} is empty.", fix="Fill it in or drop the row.")
    place, _, noun = what.rpartition(": ")
    need_characters(content, place, noun)
    return content.strip()


def without_reply(value: Any) -> Any:
    """The turns of one cell before the reply that ends it; the cell itself where none does, or where it is none.

    Examples:
        >>> without_reply([{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}])
        [{'role': 'user', 'content': 'Hello'}]
    """
    try:
        turns = turns_of(value, "")
    except DataError:  # the task tells of it, with the row
        return value
    return turns[:-1] if len(turns) > 1 and turns[-1]["role"] == "assistant" else value


def need_user(turns: list[Turn], place: str) -> None:
    """Refuses a conversation in which nobody asks, or in which the assistant speaks first.

    Raises:
        DataError: with the row.
    """
    roles = [turn["role"] for turn in turns]
    if "user" not in roles:
        raise DataError(f"{place}: no turn is a user's.", expected="Somebody must ask.", fix="Drop the row.")
    if "assistant" in roles and roles.index("assistant") < roles.index("user"):
        raise DataError(
            f"{place}: the assistant speaks before any user.",
            expected="A reply is learnt as the answer to what stands before it.",
            fix="Drop its first turn.",
        )


def need_reply(turns: list[Turn], place: str) -> None:
    """Refuses a conversation from which nothing can be learnt.

    Raises:
        DataError: with the row.
    """
    if all(turn["role"] != "assistant" for turn in turns):
        raise DataError(
            f"{place}: no turn is the assistant's.", expected="The loss falls on replies.", fix="Drop the row."
        )


def need_question(turns: list[Turn], place: str) -> None:
    """Refuses a conversation in which there is nothing to reply to.

    Raises:
        DataError: with the row.
    """
    if turns[-1]["role"] == "assistant":
        raise DataError(
            f"{place}: the last turn is the assistant's.",
            expected="A prediction is the reply to a user's turn.",
            fix="Drop the last turn.",
        )
