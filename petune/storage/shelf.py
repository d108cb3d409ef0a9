"""The shelf: puts adapters into folders and takes them out again, whatever wrote them."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from petune.data.tokenizers import FILES, from_files
from petune.errors import AdapterError, AdapterFileError, BackboneError, ConfigError
from petune.lookup import find, name_of
from petune.methods.base import Method
from petune.model import quantizing
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone, quiet
from petune.model.bodies import refuse_private
from petune.model.twins import remembered
from petune.storage import adapter_file, links
from petune.storage.container import read_bytes
from petune.storage.full_model import is_full_model, read_full, write_full
from petune.storage.packing import pack, unpack
from petune.storage.placing import about
from petune.tasks.base import Task

_MOST_ROWS = 500_000
"""Rows of a history that are read."""


@dataclass(frozen=True)
class Taken:
    """What came off the shelf: the adapter on its backbone, and what lay beside it."""

    adapter: Adapter
    backbone: Backbone
    tokenizer: Any = None
    history: list[dict[str, Any]] = field(default_factory=list)


def put(folder: str | Path, adapter: Adapter, probe: Tensor, tokenizer: Any, history: list[dict[str, Any]]) -> Path:
    """Writes an adapter's folder.

    Raises:
        AdapterFileError: the folder cannot be written, or a tensor or an answer is not finite.
    """
    if not bool(torch.isfinite(probe).all()):
        raise AdapterFileError(
            f"The adapter {adapter.name!r} answers with NaN or infinity.",
            expected="Only an adapter whose answers are finite is worth keeping.",
            fix="Train it again with a lower learning rate.",
        )
    if adapter.method.residence == "private":
        return write_full(Path(folder), adapter, probe, tokenizer)
    return adapter_file.write(folder, pack(adapter, probe), tokenizer=tokenizer, history=history)


def take(
    folder: str | Path,
    backbone: str | Path | PreTrainedModel | Backbone | None,
    name: str | None = None,
    *,
    share: bool = False,
    refuse: Callable[[type[Method]], None] = lambda method: None,
) -> Taken:
    """Reads an adapter's folder and builds it on a backbone.

    Args:
        backbone: None uses the recorded id or path.
        name: in place of the recorded one.
        share: many adapters of one backbone: those with equal tokenizer files get one tokenizer, and none its history.
        refuse: is shown the class of its method before anything is built, and raises what speaks against it.

    Raises:
        AdapterFileError: a torn or wrong file, or another backbone.
        BackboneError: the recorded backbone is not to be found.
    """
    folder = Path(folder)
    with about(folder):  # a path may be none
        whole = is_full_model(folder)
    if whole:
        refuse(find("methods", "full"))
        links.check(folder)
        with about(folder):
            home, adapter = read_full(folder)
        if backbone is not None:
            adapter.facts["notices"] = ["A full fine-tuning is a whole model: the backbone that was given is not used."]
        return Taken(adapter if name is None else adapter.renamed(name), home, _tokenizer(folder, adapter.task))
    given = backbone if backbone is None or isinstance(backbone, Backbone) else Backbone.open(backbone)
    # A folder by peft says little about its backbone, so the reader is shown the real one where there is one.
    known = {} if given is None else {"config": given.model.config, "prefix": given.model.base_model_prefix}
    stored = adapter_file.read(folder, **known)
    with about(folder):
        refuse(find("methods", stored.manifest["method"]["name"]))
    home = given or _recorded(stored.manifest["backbone"])
    key = tuple((file, digest) for file, digest in stored.exports.items() if file != adapter_file.PEFT_CONFIG)
    shared = share and bool(key)
    with about(folder):
        adapter = unpack(stored, home, name)
    open_it = functools.partial(_tokenizer, folder, adapter.task)
    try:
        # In a box, because None (no tokenizer was saved) is an answer too.
        tokenizer = remembered(home.built, key, lambda: [open_it()])[0] if shared else open_it()
    except BaseException:
        adapter.body.detach()
        raise
    with about(folder):
        history = [] if share else _history(folder)
    return Taken(adapter, home, tokenizer, history)


def refuse_unshared(name: str, method: type[Method]) -> None:
    """Raises AdapterError for a method whose adapters cannot live beside others."""
    refuse_private(name, method)
    if method.residence != "shared":
        raise AdapterError(
            f"{name!r} is a method from peft: it replaces modules of the backbone.",
            expected="An adapter of a store lives beside others.",
            fix="Add it by hand to a model of its own.",
        )


def rebuilt(adapter: Adapter, backbone: Backbone, name: str) -> Adapter:
    """A copy of a living adapter on a backbone, checked as one from a file is.

    Raises:
        AdapterFileError: it was trained on other weights.
        AdapterError: a full fine-tuning.
    """
    refuse_private(name, adapter.method)
    packed = pack(adapter, None)
    # Tensors of a file are taken over; those of the living one stay its own.
    layers = {path: _cloned(tensors) for path, tensors in packed.layers.items()}
    return unpack(replace(packed, layers=layers, head=_cloned(packed.head)), backbone, name)


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _recorded(said: dict[str, Any]) -> Backbone:
    """The backbone that the adapter was trained on, from its recorded id or path."""
    recorded = said["path_or_id"]
    if not recorded:
        raise BackboneError(
            "The adapter was trained on a model object, so no path or id of its backbone was recorded.",
            fix="Pass it: Tuner.load(folder, backbone=...).",
        )
    try:
        return Backbone.open(recorded, said.get("quantized"))
    except BackboneError as error:
        raise BackboneError(
            f"The adapter's backbone {recorded!r} could not be opened: {error.what}",
            fix="Pass it: Tuner.load(folder, backbone=...).",
        ) from error


def _history(folder: Path) -> list[dict[str, Any]]:
    """The history that was saved with the adapter; it is for people, so what is no row of it is passed over.

    Raises:
        AdapterFileError: more bytes than any fit writes.
    """
    path = folder / "history.jsonl"
    lines = io.BytesIO(read_bytes(path) if path.is_file() else b"")
    rows = []
    for line in itertools.islice(lines, _MOST_ROWS):
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(row := json.loads(line.decode("utf-8", "replace")), dict):
                rows.append(row)
    return rows


def _tokenizer(folder: Path, task: Task) -> Any:
    """The tokenizer (or what else the task reads with) that was saved with the adapter, if one was."""
    if not any((folder / name).is_file() for name in FILES[task.reads]):
        return None
    try:
        with quiet():
            return from_files(folder, task)
    except BaseException as error:  # whatever a loader of files from elsewhere may raise
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # of the base exceptions, that of tokenizers' own language says no more than others
        raise AdapterFileError(
            f"The tokenizer in {folder} (tokenizer_config.json) cannot be read: {error}.",
            expected="A tokenizer as transformers saves it, without code of its own.",
            fix="Save the adapter again.",
        ) from error


def push(
    save: Callable[[Path], Path], repo_id: str, *, private: bool, dry_run: bool, token: str | None
) -> dict[str, Any] | str:
    """Uploads what `save` writes; a dry run lists it instead, and needs no network.

    Returns:
        The address of the upload; for a dry run `{"repo_id", "files": name -> bytes, "card": text}`.

    Raises:
        ConfigError: a repository id that is none.
    """
    if not repo_id or repo_id.count("/") > 1:
        raise ConfigError(f"{repo_id!r} is no repository id.", expected="It looks like 'name' or 'owner/name'.")
    with tempfile.TemporaryDirectory() as place:
        folder = save(Path(place) / "adapter")
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
        if dry_run:
            card = folder / "README.md"
            return {"repo_id": repo_id, "files": files, "card": card.read_text("utf-8") if card.is_file() else ""}
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=made.repo_id, folder_path=folder))


def describe(backbone: Backbone, method: Method, task: Task, adapter: Adapter | None) -> str:
    """A few lines on what there is."""
    weights = quantizing.count(backbone.model)
    packed = f" in {backbone.quantized}" if backbone.quantized else ""
    size = f"{weights / 1e6:.1f} M weights{packed}"
    lines = [
        f"{backbone.source or type(backbone.model).__name__} ({backbone.model_type}, {size})",
        f"task {name_of('tasks', task)}, method {name_of('methods', method)}",
    ]
    if adapter is None:
        return "; ".join([*lines, "nothing fitted yet"])
    own = sum(t.numel() for named in adapter.tensors().values() for t in named.values())
    head = sum(t.numel() for t in adapter.head().values())
    labels = ", ".join(adapter.task.labels[:8]) + (", ..." if len(adapter.task.labels) > 8 else "")
    lines.append(f"adapter {adapter.name!r}: {own:,} weights in {len(adapter.body.sites)} sites, {head:,} in the head")
    number = getattr(adapter.task, "problem_type", None) == "regression"
    none = "none (it writes texts)" if task.generates else "none (regression)" if number else "none"
    return "; ".join([*lines, f"labels: {labels or none}"])
