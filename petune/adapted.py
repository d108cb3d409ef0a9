"""`AdaptedModel`: many adapters on one backbone, tensors or texts in, logits or labels out. It delegates too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import EllipsisType
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from petune.data.batching import ordered_batches
from petune.data.preparing import prepare, tell
from petune.data.sources import read
from petune.data.tokenizers import open_tokenizer
from petune.errors import AdapterError, DataError, RouteError
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.modes import evaluating
from petune.model.routing import Frame, Route, current, entered
from petune.model.running import run
from petune.storage import shelf
from petune.storage.full_model import is_full_model
from petune.storage.packing import fingerprint
from petune.tasks._padding import pad_inputs
from petune.tasks.base import Example, Table, Task


class HasAdapter(Protocol):
    """Anything that holds an adapter, such as a fitted `Tuner`."""

    @property
    def adapter(self) -> Adapter:
        """The adapter."""


class AdaptedModel:
    """Many adapters on one backbone. Which one serves which row travels with the call.

    Args:
        backbone: a folder, a hub id, or a transformers model that is loaded already.
        tokenizer: for `predict`; None takes the one beside the backbone when it is needed.

    Raises:
        BackboneError: no such model.

    Example:
        >>> from petune import TrainConfig, Tuner
        >>> config = TrainConfig(epochs=1, progress="off")
        >>> mood = Tuner(backbone, method="lora").fit(rows, config=config)
        >>> other = Tuner(backbone, method="bottleneck").fit(rows, config=config)
        >>> model = AdaptedModel(backbone).add("mood", mood).add("other", other)
        >>> texts = ["a fine film"]
        >>> model.predict(texts * 2, adapters=["mood", "other"]) == mood.predict(texts) + other.predict(texts)
        True
    """

    def __init__(self, backbone: str | Path | PreTrainedModel, tokenizer: Any = None) -> None:
        self.backbone = Backbone.open(backbone)
        self._bank = Bank(self.backbone)
        self._given_tokenizer = tokenizer
        self._tokenizers: dict[str, Any] = {}
        self._default: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The resident adapters."""
        return tuple(self._bank.residents)

    @property
    def default(self) -> str | None:
        """The adapter that calls without a route use."""
        return self._default

    def add(self, name: str, adapter: str | Path | Adapter | HasAdapter) -> AdaptedModel:
        """Makes an adapter resident under a name; it is a copy, later training does not reach it.

        Args:
            adapter: a folder, or a Tuner (or its adapter) that was fitted on the same backbone.

        Raises:
            AdapterFileError: a wrong file, or an adapter of another backbone.
            AdapterError: the name is taken, or a full fine-tuning, or one that must be alone.
            MergeError: while merged.
        """
        shelf.check_name(name)
        self._bank.refuse_while_merged("add an adapter")
        if name in self._bank.residents:
            raise AdapterError(
                f"There is an adapter {name!r} already.", fix=f"Call remove({name!r}) first, or take another name."
            )
        self._bank.refuse_beside_sole()
        fingerprint(self.backbone)
        if isinstance(adapter, str | Path):
            made, tokenizer = self._read(name, adapter)
        else:
            living = adapter if isinstance(adapter, Adapter) else adapter.adapter
            made, tokenizer = shelf.rebuilt(living, self.backbone, name), getattr(adapter, "tokenizer", None)
        try:
            self._bank.add(made)
        except AdapterError:
            made.body.detach()
            raise
        self._tokenizers[name] = tokenizer
        tell(made.facts.get("notices", []))
        return self

    def _read(self, name: str, folder: str | Path) -> tuple[Adapter, Any]:
        if is_full_model(Path(folder)):
            raise AdapterError(
                f"{str(folder)!r} is a full fine-tuning: a whole model, no resident of a shared backbone.",
                fix="Load it with Tuner.load(folder) or with transformers.",
            )
        taken = shelf.take(folder, self.backbone, name)
        return taken.adapter, taken.tokenizer

    def remove(self, name: str) -> AdaptedModel:
        """Takes an adapter out.

        Raises:
            RouteError: no such adapter.
            MergeError: while merged.
        """
        self._bank.remove(name)
        self._tokenizers.pop(name, None)
        if self._default == name:
            self._default = None
        return self

    def use(self, name: str | None) -> AdaptedModel:
        """Sets the adapter of calls without a route; None: the bare backbone.

        Raises:
            RouteError: no such adapter.
        """
        if name is not None:
            self._bank.find(name)
        self._default = name
        return self

    def __call__(self, *, route: Route | EllipsisType = ..., **inputs: Any) -> Any:
        """Runs the model on tensors.

        Args:
            route: a name: the output of that adapter's transformers model. None: the bare backbone's output. A list
                with a name or None per row: a `RoutedOutput`, each row's logits from its own adapter. Not given: the
                route of `with model.routed(...)`, else the default of `use`.
            inputs: what the backbone takes, (B, ...) each.

        Raises:
            RouteError: unknown names, before any work; or a list that is not as long as the batch.
            MergeError: another route than the merged adapter's.
        """
        return run(self._bank, self._frame(route), inputs)

    @contextmanager
    def routed(self, route: Route) -> Iterator[AdaptedModel]:
        """Inside, calls without a route of their own take this one; also direct calls of the backbone's modules.

        Raises:
            RouteError: unknown names.
        """
        with entered(self._bank.frame(route)):
            yield self

    def _frame(self, route: Route | EllipsisType) -> Frame:
        """The frame of one call, whose route was given, is around it, or is the default."""
        if route is not ...:
            return self._bank.frame(route)
        around = current(self._bank)
        if around is not None:
            return around
        default = self._default if self._bank.merged is None else self._bank.merged
        return self._bank.frame(default)

    @torch.no_grad()
    def predict(
        self, texts: Sequence[Any], adapters: Sequence[str] | str | None = None, batch_size: int = 32
    ) -> list[Any]:
        """Each row's answer in the labels of its own adapter; rows of several adapters share their forwards.

        Args:
            texts: texts, dicts or word lists; also a DataFrame or a Dataset.
            adapters: one name per row, one for all, or None for the route of `with model.routed(...)`, else the
                default of `use`.

        Raises:
            RouteError: unknown names, a missing default, or another number of names than texts.
            DataError: items that are no text, with their row.
        """
        names = self._names(texts, adapters)
        answers: list[Any] = [None] * len(names)
        examples: list[tuple[str, Example]] = []
        places: dict[str, list[int]] = {}
        for name in dict.fromkeys(names):
            adapter = self._bank.find(name)
            rows = places[name] = [index for index, of in enumerate(names) if of == name]
            mine = _some(adapter.task, texts, rows)
            made = prepare(
                adapter.task, mine, None, self.tokenizer_of(name), self.backbone.positions, 0, labelled=False
            )
            tell(made.notices)
            examples += [(name, example) for example in made.train]
        with evaluating(*(module for name in places for module in self._bank.find(name).modules())):
            logits = self._logits(examples, batch_size)
        for name, rows in places.items():
            own = [index for index, (of, _) in enumerate(examples) if of == name]
            task = self._bank.find(name).task
            found = task.answers([logits[index] for index in own], [examples[index][1] for index in own])
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
        return answers

    def _names(self, texts: Sequence[Any], adapters: Sequence[str] | str | None) -> list[str]:
        if isinstance(texts, str):
            raise DataError("predict was given one string.", expected="It takes a list of texts.", fix="Write [text].")
        around = current(self._bank)
        default = self._default if around is None else around.route
        named = default if adapters is None else adapters
        given = [named] * len(texts) if named is None or isinstance(named, str) else list(named)
        names = [name for name in given if name is not None]
        if named is None or len(names) < len(given):
            raise RouteError("No adapter was named.", fix="Pass adapters=..., or set a default with use(name).")
        if len(names) != len(texts):
            raise RouteError(f"{len(names)} adapters were named for {len(texts)} texts.", expected="One name per text.")
        self._bank.frame(list(names) or None)  # unknown names are errors before any work
        return names

    def _logits(self, examples: Sequence[tuple[str, Example]], batch_size: int) -> list[Any]:
        """One array per example; examples of similar length share a batch, whatever their adapter."""
        found: list[Any] = [None] * len(examples)
        # Rows padded by one tokenizer share batches; adapters of one backbone nearly always have the same.
        kinds: dict[str, list[int]] = {}
        for index, (name, _) in enumerate(examples):
            kinds.setdefault(_padding(self.tokenizer_of(name)), []).append(index)
        for kind in kinds.values():
            for batch in ordered_batches([len(examples[index][1]["input_ids"]) for index in kind], batch_size):
                self._answer([kind[place] for place in batch], examples, found)
        return found

    def _answer(self, batch: list[int], examples: Sequence[tuple[str, Example]], found: list[Any]) -> None:
        """Runs one batch and puts each example's logits in its place."""
        tokenizer = self.tokenizer_of(examples[batch[0]][0])
        inputs = pad_inputs([examples[index][1] for index in batch], tokenizer, tokenizer.padding_side)
        inputs = {name: tensor.to(self.backbone.device) for name, tensor in inputs.items()}
        output = run(self._bank, self._bank.frame([examples[index][0] for index in batch]), inputs)
        for index, logits in zip(batch, output.logits, strict=True):
            name, example = examples[index]
            found[index] = self._bank.find(name).task.split(logits.unsqueeze(0), [example])[0]

    def tokenizer_of(self, name: str) -> Any:
        """The tokenizer that was saved with an adapter, else the model's.

        Raises:
            BackboneError: none is to be found.
        """
        own = self._tokenizers.get(name)
        return self.tokenizer if own is None else own

    @property
    def tokenizer(self) -> Any:
        """The tokenizer given, or the one beside the backbone.

        Raises:
            BackboneError: none is to be found.
        """
        if self._given_tokenizer is None:
            self._given_tokenizer = open_tokenizer(None, self.backbone)
        return self._given_tokenizer


def _some(task: Task, texts: Any, rows: list[int]) -> Table:
    """The rows of one adapter, called by their places among all of them."""
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        return read(texts).take(rows)
    plain = texts.tolist() if hasattr(texts, "tolist") else texts
    table = task.table([plain[row] for row in rows])
    return dataclasses.replace(table, place=lambda index: f"row {rows[index]}")


def _padding(tokenizer: Any) -> str:
    """Equal for tokenizers whose rows may share a batch: they pad alike."""
    return f"{tokenizer.pad_token_id} {tokenizer.padding_side} {sorted(tokenizer.model_input_names)}"
