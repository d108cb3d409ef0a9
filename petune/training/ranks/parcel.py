"""What a launched process is given: a folder with names, knobs, encoded rows and safetensors, and no pickle.

folder/
├── job.json        backbone, method, task and configuration, as an adapter file would tell them
├── rows.json       the encoded rows: the launching process has read the data, the others need not
├── backbone/       of a model that was handed over as an object; one that came from a folder or id is named
├── tokenizer/
└── checkpoint-*/   the tensors to start from, under `continue_from`
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from petune.config import TrainConfig
from petune.data.preparing import Prepared
from petune.errors import BackboneError, ConfigError, DataError, PetuneError
from petune.lookup import find, name_of
from petune.methods.base import Method
from petune.model.backbone import Backbone, quiet
from petune.model.safe_reading import SAFELY
from petune.storage import checkpoint as storage
from petune.storage.packing import identity, knobs_of
from petune.tasks.base import Example, Task
from petune.training.identity import fingerprint, plain
from petune.training.starting import Start

JOB, ROWS, BACKBONE, TOKENIZER = "job.json", "rows.json", "backbone", "tokenizer"


class Job(NamedTuple):
    """One fit, as a launched process finds it."""

    backbone: Backbone
    name: str
    task: Task
    method: Method
    tokenizer: Any
    config: TrainConfig
    train: list[Example]
    evaluation: list[Example] | None
    start: Start | None
    resume: str | None


def pack_job(
    folder: Path,
    backbone: Backbone,
    name: str,
    method: Method,
    tokenizer: Any,
    data: Prepared,
    config: TrainConfig,
    start: Start | None,
    resume: str | Path | None,
) -> None:
    """Writes the folder.

    Raises:
        ConfigError: a method, task or metric that another process cannot be told of.
        BackboneError: a model that cannot be written down.
        DataError: encoded rows that JSON cannot hold.
    """
    job = {
        "backbone": _pack_backbone(folder / BACKBONE, backbone),
        "name": name,
        "method": _pack_recipe("methods", method),
        "task": _pack_recipe("tasks", data.task),
        "config": _pack_config(config),
        "start": None if start is None else _pack_start(folder, start),
        "resume": None if resume is None else str(resume),
        "rows": [fingerprint(data.train), fingerprint(data.evaluation)],
    }
    if not hasattr(tokenizer, "save_pretrained"):
        raise ConfigError(
            f"A {type(tokenizer).__name__} has no save_pretrained.",
            expected="fit(processes=N) hands the tokenizer to other processes as a folder.",
            fix="Use a transformers tokenizer, or start the script with torchrun.",
        )
    tokenizer.save_pretrained(str(folder / TOKENIZER))
    try:
        (folder / ROWS).write_text(json.dumps([data.train, data.evaluation]), encoding="utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The task {name_of('tasks', data.task)!r} encodes rows that JSON cannot hold: {error}.",
            expected="Lists of numbers and strings, which fit(processes=N) hands to other processes.",
            fix="Start the script with torchrun: each process then encodes the rows itself.",
        ) from error
    (folder / JOB).write_text(json.dumps(job), encoding="utf-8")


def unpack_job(folder: Path) -> Job:
    """Reads the folder; what was told is compared with what is found.

    Raises:
        BackboneError: the folder or id now holds another backbone.
        DataError: the rows are not those that were encoded.
    """
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    train, evaluation = json.loads((folder / ROWS).read_text(encoding="utf-8"))
    if [fingerprint(train), fingerprint(evaluation)] != job["rows"]:
        raise DataError(
            "The encoded rows came to another process as other rows.",
            expected="Lists of numbers and strings, which JSON gives back as they were.",
            fix="Start the script with torchrun: each process then encodes the rows itself.",
        )
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder / TOKENIZER), trust_remote_code=False)
    return Job(
        _unpack_backbone(folder / BACKBONE, job["backbone"]),
        job["name"],
        _unpack_recipe("tasks", job["task"]),
        _unpack_recipe("methods", job["method"]),
        tokenizer,
        _unpack_config(job["config"]),
        train,
        evaluation,
        None if job["start"] is None else _unpack_start(folder, job["start"]),
        job["resume"],
    )


def _pack_backbone(folder: Path, backbone: Backbone) -> dict[str, Any]:
    """A name, or the model itself in a folder."""
    told = {"identity": identity(backbone), "pad": backbone.pad_token_id, "quantize": backbone.quantized}
    model = backbone.given
    if model is None:
        return {**told, "source": backbone.source, "class": None}
    kind = type(model).__name__
    if getattr(transformers, kind, None) is not type(model) or backbone.quantized:
        what = f"is quantised ({backbone.quantized})" if backbone.quantized else "is no class of transformers"
        raise BackboneError(
            f"The model that was given {what}: {kind}.",
            expected="fit(processes=N) hands a model to other processes by its name, or as files.",
            fix="Give the Tuner the folder or id of the model, or start the script with torchrun.",
        )
    with quiet():
        model.save_pretrained(str(folder))
    attention = str(backbone.model.config._attn_implementation).removeprefix("petune_")
    return {**told, "source": backbone.source, "class": kind, "attention": attention}


def _unpack_backbone(folder: Path, told: Mapping[str, Any]) -> Backbone:
    if told["class"] is None:
        backbone = Backbone.open(told["source"], told["quantize"])
    else:
        kind = getattr(transformers, told["class"])
        with quiet():
            model = kind.from_pretrained(str(folder), dtype="auto", attn_implementation=told["attention"], **SAFELY)
        model.name_or_path = told["source"]
        backbone = Backbone.open(model.eval())
    backbone.pad_token_id = told["pad"]
    if identity(backbone) != told["identity"]:
        raise BackboneError(
            f"The backbone {told['source']!r} has other weights here than in the process that launched this one.",
            expected="fit(processes=N) opens it again, by its name.",
            fix="If its weights were changed in memory, pass the model itself to the Tuner.",
        )
    return backbone


def _pack_recipe(room: str, thing: Any) -> dict[str, Any]:
    """The name and knobs of a method or task; it is put together again at once, to see that nothing is lost."""
    told = {"name": name_of(room, thing), "knobs": knobs_of(thing)}
    try:
        again = _unpack_recipe(room, json.loads(json.dumps(told)))
        whole = plain(knobs_of(again)) == plain(told["knobs"])
    except (TypeError, ValueError, ImportError, AttributeError, PetuneError):
        whole = False
    if type(thing).__module__ == "__main__" or not whole:
        raise ConfigError(
            f"Another process cannot be told of {thing!r}.",
            expected="fit(processes=N) hands methods and tasks over by name and knobs; a class of one's own stands in a"
            " module that can be imported.",
            fix="Move the class out of the script, or start the script with torchrun.",
        )
    return told


def _unpack_recipe(room: str, told: Mapping[str, Any]) -> Any:
    name, knobs = told["name"], dict(told["knobs"])
    if ":" in name:
        importlib.import_module(name.partition(":")[0])  # a class of the user's own, named by the user's own program
    cls = find(room, name)
    if "labels" in knobs:
        knobs["labels"] = tuple(knobs["labels"])
    return cls.from_knobs(knobs) if hasattr(cls, "from_knobs") else cls(**knobs)


def _pack_config(config: TrainConfig) -> dict[str, Any]:
    knobs = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    told = {name: str(value) if isinstance(value, Path) else value for name, value in knobs.items()}
    return {**told, "metrics": [_pack_metric(metric) for metric in config.metrics]}


def _unpack_config(told: Mapping[str, Any]) -> TrainConfig:
    return TrainConfig(**{**told, "metrics": tuple(_unpack_metric(metric) for metric in told["metrics"])})


def _pack_metric(metric: Any) -> str | list[str]:
    """A name, or where a function is to be imported from."""
    if isinstance(metric, str):
        return metric
    place = [getattr(metric, "__module__", ""), getattr(metric, "__qualname__", "")]
    if place[0] != "__main__" and _found(*place) is metric:
        return place
    raise ConfigError(
        f"Another process cannot import the metric {metric!r}.",
        expected="fit(processes=N) takes names of metrics, and functions of modules that can be imported.",
        fix="Move the function out of the script, or start the script with torchrun.",
    )


def _unpack_metric(told: str | list[str]) -> Any:
    if isinstance(told, str):
        return told
    importlib.import_module(told[0])
    return _found(*told)


def _found(module: str, name: str) -> Callable[..., Any] | None:
    """What a module holds under a dotted name."""
    thing: Any = sys.modules.get(module)
    for part in name.split("."):
        thing = getattr(thing, part, None)
    return thing  # type: ignore[no-any-return]


def _pack_start(folder: Path, start: Start) -> dict[str, Any]:
    parts = {f"layers/{path}/{name}": t for path, named in start.layers.items() for name, t in named.items()}
    parts |= {f"head/{name}": tensor for name, tensor in start.head.items()}
    cloned = {name: tensor.detach().cpu().clone() for name, tensor in parts.items()}
    storage.write(folder, 0, cloned, {}, keep_last=1)
    method, task = _pack_recipe("methods", start.method), _pack_recipe("tasks", start.task)
    return {"name": start.name, "method": method, "task": task}


def _unpack_start(folder: Path, told: Mapping[str, Any]) -> Start:
    found = storage.newest(folder)
    assert found is not None
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _under(found.tensors, "layers/"):
        path, name = key.rsplit("/", 1)
        layers.setdefault(path, {})[name] = tensor
    method, task = _unpack_recipe("methods", told["method"]), _unpack_recipe("tasks", told["task"])
    return Start(told["name"], method, task, layers, dict(_under(found.tensors, "head/")))


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> Sequence[tuple[str, torch.Tensor]]:
    return [(name.removeprefix(prefix), tensor) for name, tensor in tensors.items() if name.startswith(prefix)]
