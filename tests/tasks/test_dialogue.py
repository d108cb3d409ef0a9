"""Dialogue: which pieces are learnt, by every kind of chat template; what is cut, asked and refused."""

from __future__ import annotations

from typing import Any

import pytest

from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks._templates import PLAIN, give_template, last_piece
from petune.tasks.base import IGNORE, Encoded
from petune.tasks.dialogue import Dialogue
from petune.tasks.instruction import Instruction
from tests import tiny
from tests.tasks.tables import table

CHATML = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' + '\n' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
"""Its marks end with a blank, after which transformers' own mask runs on to the end."""
LAST_ONLY = (
    "{% for message in messages %}{{ message['role'] + '\n' }}{% if loop.last and message['role'] == 'assistant' %}"
    "{{ 'think ' }}{% endif %}{{ message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
)
"""As Qwen3's: only the last reply shows its thoughts, so it is written otherwise once others follow."""
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML

TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "a great film"},
    {"role": "assistant", "content": "we saw it"},
    {"role": "user", "content": "with some old man"},
    {"role": "assistant", "content": "in his house"},
]


def tokenizer(family: str, template: str | None) -> Any:
    """The family's tokenizer with a chat template, whose marks are pieces of their own."""
    made = tiny.tokenizer(family)
    made.chat_template = template
    if template is not None:
        made.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    return made


def encoded(reads: Any, *rows: Any, labelled: bool = True, longest: int = 400, **knobs: Any) -> Encoded:
    """Conversations that a task has learnt its column from."""
    data = table([{"messages": row} for row in rows])
    return Dialogue(**knobs).learn(data).encode(data, reads, longest=longest, labelled=labelled)


def learnt(example: dict[str, Any]) -> list[int]:
    """The pieces on which a loss falls."""
    return [piece for piece in example["labels"] if piece != IGNORE]


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
@pytest.mark.parametrize("template", [None, CHATML, MARKED], ids=["plain", "chatml", "marked"])
def test_the_loss_falls_on_every_reply_and_its_end(family, template):
    """Word pieces and byte pairs; the pieces are the template's own, and those learnt are just the replies'."""
    reads = tokenizer(family, template)
    example = encoded(reads, TALK).examples[0]
    whole = reads.apply_chat_template(TALK, tokenize=True, return_dict=True)["input_ids"]
    assert whole[: len(example["input_ids"])] == example["input_ids"]
    assert not reads.decode(whole[len(example["input_ids"]) :]).strip()
    end = reads.convert_tokens_to_ids("<|end|>") if template else reads.eos_token_id
    wanted = [reads(text, add_special_tokens=False)["input_ids"] for text in ("we saw it", "in his house")]
    # Byte pairs have a piece for the blank that is marked.
    blank = reads("\n", add_special_tokens=False)["input_ids"] if template == MARKED else []
    assert learnt(example) == [*wanted[0], end, *blank, *wanted[1], end, *blank]
    assert all(label in (IGNORE, piece) for label, piece in zip(example["labels"], example["input_ids"], strict=True))


@pytest.mark.parametrize("template", [None, CHATML, MARKED], ids=["plain", "chatml", "marked"])
def test_an_evaluation_asks_what_a_prediction_asks(template):
    """The front of a labelled conversation is the prompt for its last reply, to the piece, also when both are cut."""
    reads = tokenizer("qwen2", template)
    for longest in (400, 40):
        example = encoded(reads, TALK, longest=longest, max_new_tokens=8).examples[0]
        asked = encoded(reads, TALK[:-1], labelled=False, longest=longest, max_new_tokens=8).examples[0]
        task = Dialogue(messages="messages")
        assert task.prompt_of(example)["input_ids"] == asked["input_ids"]
        assert example["_truth"] == "in his house"
        assert "labels" not in asked


def test_long_conversations_lose_their_front():
    """The last reply stays, with the piece before it; a reply that is too long alone loses its end."""
    reads = tokenizer("gpt2", None)
    whole = encoded(reads, TALK).examples[0]
    made = encoded(reads, TALK, max_length=10)
    (example,) = made.examples
    assert example["input_ids"] == whole["input_ids"][-10:]
    assert example["labels"] == whole["labels"][-10:]
    assert made.notices[-1].startswith("train.csv: 1 of 1 rows were longer than 10 pieces")
    long = [TALK[1], {"role": "assistant", "content": "we saw " * 20}]
    (example,) = encoded(reads, long, max_length=10).examples
    assert len(example["input_ids"]) == 10
    assert example["labels"][0] == IGNORE and IGNORE not in example["labels"][1:]


def test_a_tokenizer_without_a_template_is_given_one():
    """That is said once; a special piece ends a reply, and so generation."""
    reads = tokenizer("qwen2", None)
    assert "a plain one is used, and saved with the adapter" in encoded(reads, TALK).notices[0]
    assert reads.chat_template == PLAIN
    assert encoded(reads, TALK).notices == []
    assert last_piece(reads) == reads.eos_token_id
    chat = tokenizer("qwen2", CHATML)
    ends = [chat.eos_token_id, chat.convert_tokens_to_ids("<|end|>")]
    assert Dialogue().decoding(chat) == {"eos_token_id": ends}
    assert last_piece(tokenizer("qwen2", MARKED)) == ends[1]
    bare = tokenizer("qwen2", None)
    bare.eos_token = None
    assert "replies will not end by themselves" in give_template(bare)[0]
    assert last_piece(bare) is None


def test_templates_that_do_not_tell_replies_are_refused():
    """A turn that is written otherwise once others follow; one reply a row will do."""
    reads = tokenizer("qwen2", LAST_ONLY)
    with pytest.raises(BackboneError, match=r"train.csv, line 3.*does not tell where a reply begins and ends"):
        encoded(reads, TALK[1:3], TALK)
    assert learnt(encoded(reads, TALK[1:3]).examples[0])
    half = MARKED.replace("{% generation %}", "{% if loop.last %}{% generation %}").replace(
        "{% endgeneration %}", "{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}"
    )
    with pytest.raises(BackboneError, match="does not mark every reply"):
        encoded(tokenizer("qwen2", half), TALK)
    with pytest.raises(DataError, match=r"line 2: the tokenizer's chat template refuses the conversation: no system"):
        encoded(tokenizer("qwen2", STRICT), TALK)


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["chatml", "marked"])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_template_that_breaks_off_is_told_with_the_row(template, labelled):
    """Whatever a template raises is an error of the row that it was given, not a traceback."""
    reads = tokenizer("qwen2", "{{ messages[0]['content'] + 1 }}" + template)
    with pytest.raises(DataError, match="line 2: the tokenizer's chat template refuses the conversation: can only"):
        encoded(reads, TALK[: 3 if labelled else 2], labelled=labelled)


def test_a_system_message_stands_before_conversations_without_one():
    """The knob's, where there is none."""
    reads = tokenizer("qwen2", CHATML)
    with_knob = encoded(reads, TALK[1:], system="be kind").examples[0]
    assert with_knob["input_ids"] == encoded(reads, TALK).examples[0]["input_ids"]
    assert encoded(reads, TALK, system="be brief").examples[0]["input_ids"] == with_knob["input_ids"]


def test_alpaca_rows_are_a_question_and_a_reply():
    """The input follows the instruction after an empty line, where there is one; the same as messages."""
    reads = tokenizer("qwen2", CHATML)
    rows = [
        {"instruction": "we saw", "input": "a film", "output": "good "},
        {"instruction": "we saw", "input": "", "output": "bad"},
        {"instruction": "we saw", "input": float("nan"), "output": "bad"},
    ]
    data = table(rows)
    task = Instruction().learn(data)
    made = task.encode(data, reads, longest=400, labelled=True).examples
    talk = [{"role": "user", "content": "we saw\n\na film"}, {"role": "assistant", "content": "good"}]
    assert made[0]["input_ids"] == encoded(reads, talk).examples[0]["input_ids"]
    assert made[1]["input_ids"] == made[2]["input_ids"]
    for given in ([rows[0]], ["we saw\n\na film"], [talk[:1]], [{"instruction": "we saw", "input": "a film"}]):
        asked = task.encode(task.table(given), reads, longest=400, labelled=False).examples[0]
        assert asked["input_ids"] == task.prompt_of(made[0])["input_ids"]


def test_what_is_no_list_of_conversations_is_refused():
    """A single string, a single conversation, a reply at the end, a task that has learnt nothing."""
    task, reads = Dialogue(messages="messages"), tokenizer("gpt2", None)
    with pytest.raises(DataError, match="A single str was given"):
        task.table("a film?")
    with pytest.raises(DataError, match=r"a single conversation were given.*chat\(messages\)"):
        task.table(TALK)
    with pytest.raises(DataError, match="row 0: the last turn is the assistant's"):
        task.encode(task.table([TALK]), reads, longest=64, labelled=False)
    with pytest.raises(DataError, match="line 3: no turn is the assistant's"):
        encoded(reads, TALK, TALK[:2])
    with pytest.raises(ConfigError, match="not learnt its columns"):
        Dialogue().encode(task.table(["a"]), reads, longest=64, labelled=False)
    with pytest.raises(ConfigError, match="does not go with a prompt"):
        Dialogue(messages="messages", prompt="prompt")
    rows = table([{"prompt": "a", "response": "b"}, {"prompt": "a", "response": " "}])
    with pytest.raises(DataError, match="line 3: the text in column 'response' is empty"):
        Instruction().learn(rows).encode(rows, reads, longest=64, labelled=True)
