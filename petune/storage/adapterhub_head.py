"""The head of an AdapterHub folder: that of a transformers class as it is, or a flexible one that computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from petune.errors import AdapterFileError
from petune.storage import container, strict_json
from petune.storage.adapterhub import HEAD_CONFIG, HEAD_WEIGHTS, PICKLES
from petune.storage.peft_reading import OUTPUTS

_TASKS = {
    "classification": "sequence-classification",
    "multilabel_classification": "sequence-classification",
    "tagging": "token-classification",
}
_FLEXIBLE = {
    ("bert", 1): {"1": "classifier"},
    ("bert", 2): {"1": "bert.pooler.dense", "4": "classifier"},
    ("roberta", 2): {"1": "classifier.dense", "4": "classifier.out_proj"},
    ("electra", 2): {"1": "classifier.dense", "4": "classifier.out_proj"},
}
"""(prefix, layers) of a flexible classification head -> its numbered maps by transformers' names."""
_INNER = {"bert": "tanh", "roberta": "tanh", "electra": "gelu"}
"""Prefix -> the activation inside transformers' own classification head."""


def head_of(folder: Path, prefix: str, notices: list[str]) -> tuple[dict[str, Any], list[str], dict[str, Tensor]]:
    """The task with its knobs, the labels, and the head's tensors by transformers' names.

    Raises:
        AdapterFileError: no head, or one that no transformers class of the architecture has.
    """
    if not (folder / HEAD_CONFIG).is_file():
        raise AdapterFileError(
            f"{folder} holds no head ({HEAD_CONFIG}), so it has no task.",
            fix="Save it there with its head: model.save_adapter(folder, name, with_head=True).",
        )
    source = str(folder / HEAD_CONFIG)
    said = strict_json.loads(container.read_bytes(folder / HEAD_CONFIG), source=source)
    inner, tensors = said.get("config"), tensors_in(folder, HEAD_WEIGHTS)
    if isinstance(inner, dict):
        kind, map_ = inner.get("head_type"), inner.get("label2id")
        head = _flexible(inner, tensors, prefix, said, source)
    else:
        class_name = str(said.get("model_class"))
        kind = {"ForSequenceClassification": "classification", "ForTokenClassification": "tagging"}.get(
            class_name[class_name.find("For") :]
        )
        map_, head = said.get("label2id"), tensors
    if kind not in _TASKS:
        raise AdapterFileError(f"{source} is a head of the kind {kind!r}.", expected=f"One of {', '.join(_TASKS)}.")
    # safetensors keeps no order, so the last map of the head is known by its name.
    ends = (one for ending in OUTPUTS for name, one in head.items() if f".{name}".endswith(f".{ending}"))
    last = next(ends, None)
    if last is None:
        raise AdapterFileError(f"{source}: the head has none of the maps {', '.join(OUTPUTS)}.")
    count = int(last.shape[0])
    task = _TASKS[str(kind)]
    if task == "token-classification":
        return (
            {"name": task, "knobs": {"tokens": "tokens", "tags": "tags", "scheme": "none"}},
            _labels(map_, count),
            head,
        )
    labels = [] if count == 1 else _labels(map_, count)
    problem = "multi_label" if kind == "multilabel_classification" else "single_label"
    problem = f"{problem}_classification" if labels else "regression"
    if map_ is None and labels:
        notices.append(f"The head names no labels, so the classes are called {labels[0]} to {labels[-1]}.")
    return {"name": task, "knobs": {"text": "text", "label": "label", "problem_type": problem}}, labels, head


def _flexible(
    inner: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str, said: Mapping[str, Any], source: str
) -> dict[str, Tensor]:
    """A flexible head as the one of the transformers class that computes the same."""
    layers, tagging = inner.get("layers"), inner.get("head_type") == "tagging"
    table = {"1": "classifier"} if tagging and layers == 1 else _FLEXIBLE.get((prefix, layers or 0))
    pooled = (prefix, layers) == ("bert", 1) and not tagging
    same = layers == 1 or inner.get("activation_function") == _INNER[prefix]
    if table is None or not same or bool(inner.get("use_pooler")) != pooled:
        raise AdapterFileError(
            f"{source} is a head that no transformers class of this architecture has.",
            expected="One layer on BERT's pooler, two layers (tanh; gelu for ELECTRA), or one layer for tags.",
        )
    start = f"heads.{said.get('name')}."
    found = {}
    for name, tensor in tensors.items():
        number, _, short = name.removeprefix(start).partition(".")
        if not name.startswith(start) or number not in table:
            raise AdapterFileError(f"{source}: the tensor {name!r} is no part of such a head.")
        found[f"{table[number]}.{short}"] = tensor
    return found


def _labels(map_: Any, count: int) -> list[str]:
    """The labels in class order, or LABEL_0 and so on."""
    if isinstance(map_, dict) and sorted(map_.values()) == list(range(count)):
        return [str(label) for label, _ in sorted(map_.items(), key=lambda pair: pair[1])]
    return [f"LABEL_{index}" for index in range(count)]


def tensors_in(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one of its files.

    Raises:
        AdapterFileError: it is not there, or there as a pickle alone.
    """
    path = folder / name
    if not path.is_file():
        pickle = next((one for one in PICKLES if (folder / one).is_file()), None)
        what = f"holds its weights as a pickle, {pickle}" if pickle else f"lacks {name}"
        raise AdapterFileError(
            f"{folder} {what}.",
            expected=f"{name}: a pickle can run code, so petune never opens one.",
            fix="Load it in the library that wrote it and save it with use_safetensors=True.",
        )
    return container.unpack(container.read_bytes(path, limit=container.MAX_FILE_BYTES, tensors=True), str(path))[0]
