"""`AdaptedModel`: many adapters on one backbone, tensors or texts in, logits or labels out. It delegates too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from petune.config import near_keywords
from petune.mixed import Way, names_of, predicted, probabilities, texts_of
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.framing import find_in
from petune.model.generating import generate
from petune.model.merging import MergeReceipt, merge, merged_copy, unmerge
from petune.model.routing import Frame, Route, current, entered
from petune.model.running import run
from petune.residents import HasAdapter, Residents
from petune.storage.names import check_name
from petune.storage.store import AdapterStore


@near_keywords
class AdaptedModel:
    """Many adapters on one backbone. Which one serves which row travels with the call.

    Args:
        backbone: a folder, a hub id, or a transformers model that is loaded already.
        tokenizer: for `predict`; None takes the one beside the backbone when it is needed.
        store: adapters on disk that are loaded when a call first names them.
        quantize: `"4bit"` or `"8bit"`: the frozen weights are packed by bitsandbytes (the extra `quant`).

    Raises:
        BackboneError: no such model.

    Examples:
        >>> from petune import TrainConfig, Tuner
        >>> config = TrainConfig(epochs=1, progress="off")
        >>> mood = Tuner(backbone, method="lora").fit(rows, config=config)
        >>> other = Tuner(backbone, method="bottleneck").fit(rows, config=config)
        >>> model = AdaptedModel(backbone).add("mood", mood).add("other", other)
        >>> texts = ["a fine film"]
        >>> model.predict(texts * 2, adapters=["mood", "other"]) == mood.predict(texts) + other.predict(texts)
        True
    """

    def __init__(
        self,
        backbone: str | Path | PreTrainedModel,
        tokenizer: Any = None,
        *,
        store: AdapterStore | None = None,
        quantize: str | None = None,
    ) -> None:
        self.backbone = Backbone.open(backbone, quantize)
        self.merge_receipt: MergeReceipt | None = None
        self._residents = Residents(self.backbone, tokenizer, store)
        self._default: str | None = None

    @property
    def store(self) -> AdapterStore | None:
        """Where adapters come from that are not resident yet."""
        return self._residents.store

    @property
    def _bank(self) -> Bank:
        return self._residents.bank

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
        check_name(name)
        self._bank.refuse_while_merged("add an adapter")
        self._bank.refuse_taken(name)
        self._residents.put(name, adapter, new=True)
        return self

    def replace(self, name: str, adapter: str | Path | Adapter | HasAdapter) -> AdaptedModel:
        """Swaps a live adapter for another one under the same name, in one step: every row of every call sees the
        old one or the new one as a whole, head and labels included. Another method, rank or label set will do.

        Args:
            adapter: as for `add`.

        Raises:
            RouteError: no such adapter.
            AdapterFileError, AdapterError, MergeError: as `add`; the old one goes on serving.
        """
        self._bank.find(name)
        self._bank.refuse_while_merged("replace an adapter")
        self._residents.put(name, adapter)
        return self

    def remove(self, name: str) -> AdaptedModel:
        """Takes an adapter out; calls that run on it end undisturbed.

        Raises:
            RouteError: no such adapter.
            MergeError: while merged.
        """
        self._bank.remove(name)
        if self._default == name:
            self._default = None
        return self

    def use(self, name: str | None) -> AdaptedModel:
        """Sets the adapter of calls without a route; None: the bare backbone.

        Raises:
            RouteError: no such adapter.
        """
        if name is not None:
            find_in(self._residents.at_hand(name).adapters, name)
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
        with entered(self._bank.frame(route, self._residents.at_hand(route))):
            yield self

    def _frame(self, route: Route | EllipsisType) -> Frame:
        """The frame of one call, whose route was given, is around it, or is the default."""
        if route is not ...:
            return self._bank.frame(route, self._residents.at_hand(route))
        around = current(self._bank)
        if around is not None:
            return around
        default = self._default if self._bank.merged is None else self._bank.merged
        return self._bank.frame(default, self._residents.at_hand(default))

    def compact(self) -> AdaptedModel:
        """Gives back the memory that the stacks hold in reserve for adapters to come."""
        self._bank.compact()
        return self

    def compile(self, **options: Any) -> AdaptedModel:
        """Compiles the backbone in place (options of `torch.compile`); no route or swap compiles it again."""
        self.backbone.compile(**options)
        return self

    def merge(self, name: str) -> PreTrainedModel:
        """Writes an adapter into the backbone, in place, and returns its task's model. Calls that run are waited for;
        until `unmerge`, calls of other adapters are errors.

        Raises:
            RouteError: no such adapter.
            MergeError: merged already, a method without a weight change, or the probe's logits would differ too much.
        """
        adapter = self._bank.find(name)
        self.merge_receipt = merge(self._bank, adapter)
        return adapter.shell.model

    def unmerge(self) -> AdaptedModel:
        """Puts the backbone's original bits back, and serves every adapter again.

        Raises:
            MergeError: nothing is merged.
        """
        unmerge(self._bank)
        return self

    def merged_copy(self, name: str) -> PreTrainedModel:
        """An independent model with an adapter merged in; serving goes on undisturbed.

        Raises:
            RouteError: no such adapter.
            MergeError: as `merge`.
        """
        model, self.merge_receipt = merged_copy(self._bank, self._bank.find(name))
        return model

    @torch.no_grad()
    def predict(
        self,
        texts: Sequence[Any],
        adapters: Sequence[str] | str | None = None,
        batch_size: int = 32,
        *,
        errors: Literal["raise", "return"] = "raise",
    ) -> list[Any]:
        """Each row's answer in its own adapter's labels, or the text that it writes; adapters share their forwards.

        Args:
            texts: texts, dicts or word lists; also a DataFrame or a Dataset.
            adapters: one name per row, one for all, or None for the route of `with model.routed(...)`, else the
                default of `use`.
            errors: what becomes of rows whose adapter the store cannot load: `"raise"` the first error, or
                `"return"` it in each such row's place.

        Raises:
            RouteError: unknown names, a missing default, or another number of names than texts.
            DataError: items that are no text, with their row.
            AdapterFileError: the store could not load an adapter.
        """
        return self._answers(predicted, texts, adapters, batch_size, errors)

    @torch.no_grad()
    def predict_proba(
        self, texts: Sequence[Any], adapters: Sequence[str] | str | None = None, batch_size: int = 32
    ) -> list[Any]:
        """Each row's probabilities by its own adapter, (C,) in the order of its labels; for tags (words, C).

        Raises:
            RouteError, DataError, AdapterFileError: as `predict`.
        """
        return self._answers(probabilities, texts, adapters, batch_size)

    def generate(
        self, texts: Any = None, adapters: Any = None, batch_size: int = 32, *, route: Any = ..., **given: Any
    ) -> Any:
        """What each row's language model writes: texts after texts, or token ids after one batch of tensors.

        Args:
            texts, adapters: as for `predict`; without texts, tensors by name and `route` as for a call, rows of a
                decoder padded on the left.
            given: options of transformers' `generate`, and `seed`: a number, or one for each row.

        Raises:
            AdapterError: an adapter that writes no texts.
            ConfigError: an unknown option, or options that contradict each other.
            RouteError, DataError, AdapterFileError: as `predict`.
        """
        if texts is None:
            tensors = {name: given.pop(name) for name, value in [*given.items()] if isinstance(value, Tensor)}
            return generate(self._bank, self._frame(route), tensors, **given)
        return self._answers(partial(texts_of, options=given), texts, adapters, batch_size)

    def _answers(self, how: Way, texts: Any, adapters: Any, batch_size: int, errors: str = "raise") -> list[Any]:
        around = current(self._bank)
        default = self._bank.merged or self._default if around is None else around.route
        names = dict(enumerate(names_of(texts, default if adapters is None else adapters)))
        found: dict[int, Any] = {}
        for portion in self._residents.portions(names):
            for error in portion.failures.values() if errors == "raise" else ():
                raise error
            found.update({row: portion.failures[name] for row, name in names.items() if name in portion.failures})
            found.update(how(self._residents, portion, texts, batch_size))
        return [found[row] for row in names]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer given, or the one beside the backbone.

        Raises:
            BackboneError: none is to be found.
        """
        return self._residents.tokenizer()

    def __repr__(self) -> str:
        names = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
        return f"<AdaptedModel {self.backbone.model_type}, adapters: {names or 'none'}; default: {self._default}>"
