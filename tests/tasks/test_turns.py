"""Conversations of every form, and what is refused, with row and turn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from petune.errors import DataError
from petune.tasks._turns import need_question, need_reply, need_user, turns_of, without_reply
from petune.tasks.dialogue import Dialogue
from petune.tasks.instruction import Instruction
from tests.tasks.tables import reread, table

ASKED = {"role": "user", "content": "a film?"}
TOLD = {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize(
    "value",
    [
        [ASKED, TOLD],
        ({"role": "User", "content": " a film?\n"}, {"role": "assistant", "content": "yes", "name": "x"}),
        [{"from": "human", "value": "a film?"}, {"from": "gpt", "value": "yes"}],
        np.array([ASKED, TOLD], dtype=object),
        json.dumps([ASKED, TOLD]),
    ],
    ids=["messages", "other case", "sharegpt", "array", "json"],
)
def test_every_form_is_the_same_conversation(value):
    """Messages, ShareGPT's turns, a column of Parquet, a cell of a csv file; blanks around a content are dropped."""
    assert turns_of(value, "row 0") == [ASKED, TOLD]


def test_a_string_is_a_question():
    """What `predict` is mostly given."""
    assert turns_of("a film? ", "row 0") == [ASKED]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "row 3: None is no conversation"),
        (7, "row 3: 7 is no conversation"),
        ({"role": "user", "content": "a"}, "is no conversation"),
        ("[{broken", "row 3: the conversation is no JSON"),
        ([ASKED, "yes"], "row 3, turn 1: the turn is 'yes'"),
        ([{"role": "user", "text": "a"}], r"row 3, turn 0: the turn has the keys 'role', 'text'"),
        ([{"role": "usr", "content": "a"}], r"turn 0: there is no role 'usr'.*Did you mean 'user'"),
        ([{"from": "humans", "value": "a"}], r"no role 'humans'.*'human'"),
        ([ASKED, {"role": "tool", "content": "a"}], "row 3, turn 1: there is no role 'tool'"),
        ([ASKED, {"role": "assistant", "content": "  "}], "row 3, turn 1: the content is empty"),
        ([{"role": "user", "content": ["a"]}], r"row 3, turn 0: the content is \['a'\], a list"),
        ([{"role": "user", "content": "\ud800"}], "row 3, turn 0: the content holds .* lone surrogate"),
        (" ", "row 3: the question is empty"),
    ],
)
def test_bad_turns_are_named(value, words):
    """Row and turn, and the near role."""
    with pytest.raises(DataError, match=words):
        turns_of(value, "row 3")


def test_conversations_that_teach_nothing_are_refused():
    """Nobody asks, nobody replies, the assistant begins, or there is nothing left to reply to."""
    with pytest.raises(DataError, match="row 1: no turn is a user's"):
        need_user([{"role": "system", "content": "be kind"}, TOLD], "row 1")
    with pytest.raises(DataError, match="row 1: the assistant speaks before any user"):
        need_user([TOLD, ASKED], "row 1")
    with pytest.raises(DataError, match="row 1: no turn is the assistant's"):
        need_reply([ASKED], "row 1")
    with pytest.raises(DataError, match="row 1: the last turn is the assistant's"):
        need_question([ASKED, TOLD], "row 1")


def test_a_reply_at_the_end_can_be_left_away():
    """Only the last one, of any form of a conversation; what ends in a question or is none stays as it is."""
    for value in ([ASKED, TOLD], json.dumps([ASKED, TOLD])):
        assert without_reply(value) == [ASKED]
    for value in ([ASKED], [TOLD], "a question", 3, None, [{"role": "nobody", "content": "a"}]):
        assert without_reply(value) is value


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("messages",), ("messages", None, None, None)),
        (("id", "Conversations"), ("Conversations", None, None, None)),
        (("prompt", "response"), (None, "prompt", None, "response")),
        (("instruction", "input", "output"), (None, "instruction", "input", "output")),
        (("question", "context", "answer"), (None, "question", "context", "answer")),
        (("messages", "prompt", "response"), ("messages", None, None, None)),
    ],
)
def test_columns_are_found_by_their_usual_names(columns, found):
    """Conversations, or a prompt and its response with more on it."""
    learnt = Dialogue().learn(table([dict.fromkeys(columns, "a film")]))
    assert (learnt.messages, learnt.prompt, learnt.context, learnt.response) == found
    assert len(learnt.chosen(Dialogue())) == sum(name is not None for name in found)
    assert reread(learnt) == learnt


def test_an_instruction_has_a_prompt_and_a_response():
    """Beside a column of messages these are taken; without them what was found is listed."""
    rows = table([{"messages": [ASKED, TOLD], "prompt": "a", "response": "b"}])
    learnt = Instruction().learn(rows)
    assert (learnt.messages, learnt.prompt, learnt.response) == (None, "prompt", "response")
    assert Instruction(messages="messages").learn(rows).messages == "messages"
    with pytest.raises(DataError, match=r"no column with a usual name for response.*'prompt', 'fact'"):
        Instruction().learn(table([{"prompt": "a", "fact": "b"}]))
    with pytest.raises(DataError, match=r"no column with a usual name for messages.*'id'"):
        Dialogue().learn(table([{"id": 1}]))
    with pytest.raises(DataError, match=r"no column 'mesages'.*Did you mean 'messages'"):
        Dialogue(messages="mesages").learn(rows)
