"""How a task's model is asked by hand, as lines of code for the names `model` and `tokenizer`.

They stand behind peft's on a model card, so they must say what the model has learnt to read: the pair, the template of
a chat, the prefix. Where that takes more than a line or two there are none, because a plain text would mislead.
"""

from __future__ import annotations

import json
from typing import Any

from petune.tasks.base import Task
from petune.tasks.dialogue import Dialogue
from petune.tasks.multiple_choice import MultipleChoice
from petune.tasks.prompt_classification import PromptClassification
from petune.tasks.question_answering import QuestionAnswering
from petune.tasks.relation_extraction import RelationExtraction
from petune.tasks.seq2seq_lm import Seq2SeqLM
from petune.tasks.similarity import Similarity
from petune.tasks.translation import Translation

POOLED = {"mean": "states.mean(1)", "cls": "states[:, 0]", "last": "states[:, -1]"}
"""One vector of the states (1, T, D) of a single text, which has no padding."""


def literal(value: Any) -> str:
    """Texts, whole numbers, lists and dicts of them as Python, in double quotes.

    Examples:
        >>> print(literal({"question": "...", "options": ["one", "another"]}))
        {"question": "...", "options": ["one", "another"]}
    """
    return json.dumps(value, ensure_ascii=False)


def by_hand(task: Task) -> list[str]:
    """The lines; none where petune does too much for a row to be written by hand.

    Examples:
        >>> print(*by_hand(QuestionAnswering(question="q", context="c"))[:1])
        answer = model(**tokenizer("...", "...", return_tensors="pt"))
    """
    if task.reads != "tokenizer" or isinstance(task, PromptClassification | RelationExtraction):
        return []
    if isinstance(task, Translation) and task.source_language is not None:
        return []  # its tokenizer may have to be told both languages
    if task.generates:
        return _written(task)
    if isinstance(task, MultipleChoice):
        one = 'model(**tokenizer("...", option, return_tensors="pt")).logits.item()'
        return [f'print([{one} for option in ("one", "another")])']
    inputs = _tokenized(*["..."] * max(len(task.text_columns()), 1))
    if isinstance(task, QuestionAnswering):
        return [f"answer = model(**{inputs})", "print(answer.start_logits, answer.end_logits)"]
    if isinstance(task, Similarity):
        return [f"states = model(**{inputs}).last_hidden_state", f"vector = {POOLED[task.pooling]}",
                "print(vector / vector.norm(dim=-1, keepdim=True))"]  # fmt: skip
    return [f"print(model(**{inputs}).logits)"]


def _tokenized(*texts: str) -> str:
    return f'tokenizer({", ".join(map(literal, texts))}, return_tensors="pt")'


def _written(task: Any) -> list[str]:
    """The lines for a model that writes, with the options that its task has."""
    options = "".join(f", {name}={value!r}" for name, value in task.options().items() if isinstance(value, int | float))
    if not isinstance(task, Dialogue):
        text = f"{task.prefix}..." if isinstance(task, Seq2SeqLM) else "..."
        return [f"print(tokenizer.batch_decode(model.generate(**{_tokenized(text)}{options})))"]
    turns = [{"role": "system", "content": task.system}] if task.system is not None else []
    turns.append({"role": "user", "content": "..."})
    how = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
    return [f"messages = {literal(turns)}", f"inputs = tokenizer.apply_chat_template(messages, {how})",
            f"print(tokenizer.batch_decode(model.generate(**inputs{options})))"]  # fmt: skip
