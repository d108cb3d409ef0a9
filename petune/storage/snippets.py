"""How an adapter is loaded and asked, as code: by petune, by peft, by transformers alone; derived from its facts."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from petune import lookup
from petune.data.tokenizers import AUTO
from petune.errors import PetuneError
from petune.storage import peft_format
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
_FILES = {"image_processor": "picture.png", "feature_extractor": "sound.wav", "processor": "sound.wav"}


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
        ["from petune import Tuner", "", f"tuner = Tuner.load({_quoted(folder)})",
         f"print(tuner.predict([{_asked(stored, task)}]))"]
    ))]  # fmt: skip
    if task is None:
        return made
    line = f"from transformers import {task.auto_class}"
    if stored.method == "full":
        code = [line, "", f"model = {task.auto_class}.from_pretrained({_quoted(folder)})"]
        return [*made, Snippet("transformers", "\n".join(code))]
    if peft_format.why_no_peft_config(stored) is None:
        made.append(Snippet("peft", _by_peft(stored, task, folder)))
    if _merges(stored):
        code = ["from petune import Tuner", line, "", f"tuner = Tuner.load({_quoted(folder)})",
                'tuner.merge().save_pretrained("merged")', 'tuner.tokenizer.save_pretrained("merged")',
                f'model = {task.auto_class}.from_pretrained("merged")']  # fmt: skip
        made.append(Snippet("transformers", "\n".join(code)))
    return made


def _merges(stored: Stored) -> bool:
    try:
        return bool(lookup.find("methods", stored.method).mergeable)
    except PetuneError:
        return False


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _columns(stored: Stored, task: Task | None) -> list[str]:
    """The columns of the texts that the task reads."""
    knobs = stored.manifest["task"]["knobs"]
    return [name for knob in (task.texts_in if task else ()) if isinstance(name := knobs.get(knob), str)]


def _asked(stored: Stored, task: Task | None) -> str:
    """One row to ask about: a text, a file, or its columns where it has several."""
    columns = _columns(stored, task)
    if len(columns) > 1:
        return "{" + ", ".join(f'{_quoted(column)}: "..."' for column in columns) + "}"
    return f'"{_FILES[task.reads]}"' if task is not None and task.reads in _FILES else '"..."'


def _by_peft(stored: Stored, task: Task, folder: str) -> str:
    base = hub_id(stored) or "path/of/the/backbone"
    count = f", num_labels={len(stored.manifest['labels'])}" if stored.head and stored.manifest["labels"] else ""
    count = count or (", num_labels=1" if stored.head else "")
    lines = ["from peft import PeftModel", f"from transformers import {task.auto_class}, {AUTO[task.reads]}", "",
             f"model = {task.auto_class}.from_pretrained({_quoted(base)}{count})",
             f"model = PeftModel.from_pretrained(model, {_quoted(folder)})",
             f"{task.reads} = {AUTO[task.reads]}.from_pretrained({_quoted(folder)})"]  # fmt: skip
    return "\n".join([*lines, *_asking(stored, task)])


def _asking(stored: Stored, task: Task) -> list[str]:
    """What the model is asked, where plain texts are all that it takes."""
    if task.reads != "tokenizer":
        return []
    words = ", ".join(['"..."'] * max(len(_columns(stored, task)), 1))
    inputs = f'tokenizer({words}, return_tensors="pt")'
    if not task.generates:
        return [f"print(model(**{inputs}).logits)"]
    most = stored.manifest["task"]["knobs"].get("max_new_tokens")
    options = f", max_new_tokens={most}" if isinstance(most, int) else ""
    return [f"print(tokenizer.batch_decode(model.generate(**{inputs}{options})))"]
