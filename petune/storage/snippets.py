"""How an adapter is loaded and asked, as code: by petune, by peft, by transformers alone; derived from its facts."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from petune import lookup
from petune.data.tokenizers import AUTO
from petune.errors import PetuneError
from petune.storage import peft_format
from petune.storage.asking import by_hand, literal
from petune.storage.stored import Stored
from petune.tasks.base import Task

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ODDLY_NAMED = {
    "AutoModel": "feature-extraction",
    "AutoModelForCTC": "automatic-speech-recognition",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForSpeechSeq2Seq": "automatic-speech-recognition",
}
"""transformers' classes that the hub has another name for; of all others it is the class's own."""


class Snippet(NamedTuple):
    """Python code that runs as it stands, and a title."""

    title: str
    code: str


def hub_id(stored: Stored) -> str | None:
    """The backbone's id on the hub; None for a local folder, whose path is nobody else's business."""
    name = stored.manifest["backbone"]["id"]
    return name if name and _HUB_ID.fullmatch(name) and not os.path.exists(name) else None


def task_of(stored: Stored) -> Task | None:
    """The adapter's task; None for one that is not installed here."""
    said = stored.manifest["task"]
    try:
        kind = lookup.find("tasks", said["name"])
        return kind(**{**said["knobs"], "labels": tuple(stored.manifest.get("labels", ()))})  # type: ignore[no-any-return]
    except (PetuneError, TypeError):
        return None


def pipeline(stored: Stored) -> str | None:
    """What the hub calls such a task; None where petune does not know the task.

    Examples:
        >>> pipeline(Stored({"task": {"name": "token-classification", "knobs": {}}}))
        'token-classification'
    """
    task = task_of(stored)
    if task is None:
        return None
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", task.auto_class.removeprefix("AutoModelFor")).lower()
    return _ODDLY_NAMED.get(task.auto_class, plain)


def snippets(stored: Stored, folder: str) -> list[Snippet]:
    """petune's lines, and those of peft and transformers where they can do it.

    Args:
        folder: what the code names.
    """
    task = task_of(stored)
    made = [Snippet("petune", "\n".join(
        ["from petune import Tuner", "", f"tuner = Tuner.load({literal(folder)})",
         f"print(tuner.predict([{literal('...' if task is None else task.specimen())}]))"]
    ))]  # fmt: skip
    if task is None:
        return made
    line = f"from transformers import {task.auto_class}"
    if stored.method == "full":
        code = [line, "", f"model = {task.auto_class}.from_pretrained({literal(folder)})"]
        return [*made, Snippet("transformers", "\n".join(code))]
    if peft_format.why_no_peft_config(stored) is None:
        made.append(Snippet("peft", _by_peft(stored, task, folder)))
    if _merges(stored):
        code = ["from petune import Tuner", line, "", f"tuner = Tuner.load({literal(folder)})",
                'tuner.merge().save_pretrained("merged")', 'tuner.tokenizer.save_pretrained("merged")',
                f'model = {task.auto_class}.from_pretrained("merged")']  # fmt: skip
        made.append(Snippet("transformers", "\n".join(code)))
    return made


def _merges(stored: Stored) -> bool:
    """Whether `Tuner.merge` takes it."""
    try:
        return bool(lookup.find("methods", stored.method).mergeable) and not peft_format.holds_rows(stored)
    except PetuneError:
        return False


def _outputs(stored: Stored, task: Task) -> str:
    """How many outputs the head has, as an argument; nothing where the model has the checkpoint's own."""
    if not stored.head:
        return ""
    try:
        config = task.model_config()
    except PetuneError:  # the manifest of somebody else names no columns
        config = {"id2label": stored.manifest["labels"]}
    if "vocab_size" in config:  # a CTC head
        return f", vocab_size={config['vocab_size']}"
    count = config.get("num_labels", len(config.get("id2label", ())))
    return f", num_labels={count}" if count else ""


def _by_peft(stored: Stored, task: Task, folder: str) -> str:
    base = hub_id(stored) or "path/of/the/backbone"
    lines = ["from peft import PeftModel", f"from transformers import {task.auto_class}, {AUTO[task.reads]}", "",
             f"model = {task.auto_class}.from_pretrained({literal(base)}{_outputs(stored, task)})",
             f"model = PeftModel.from_pretrained(model, {literal(folder)})",
             f"{task.reads} = {AUTO[task.reads]}.from_pretrained({literal(folder)})"]  # fmt: skip
    return "\n".join([*lines, *by_hand(task)])
