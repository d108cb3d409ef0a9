"""Who lives on the backbone of an adapted model: where they come from, and what came with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from petune.data.preparing import tell
from petune.data.tokenizers import open_tokenizer
from petune.errors import AdapterError, PetuneError
from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank, Contents
from petune.model.bodies import refuse_private
from petune.model.framing import find_in, named
from petune.model.routing import Route
from petune.storage import shelf
from petune.storage.packing import fingerprint
from petune.storage.store import AdapterStore


class HasAdapter(Protocol):
    """Anything that holds an adapter, such as a fitted `Tuner`."""

    @property
    def adapter(self) -> Adapter:
        """The adapter."""


def adapter_of(thing: Adapter | HasAdapter) -> Adapter:
    """The adapter itself, of whatever holds it."""
    return thing if isinstance(thing, Adapter) else thing.adapter


class Portion(NamedTuple):
    """Rows whose adapters are resident together.

    Args:
        contents: the bank, as it is for all of them.
        rows: row -> name.
        failures: name -> why the store could not load it.
    """

    contents: Contents
    rows: dict[int, str]
    failures: Mapping[str, PetuneError]


class Residents:
    """The adapters of one backbone, with the tokenizers they were saved with and the notices they have given.

    Args:
        tokenizer: of the model; None: the one beside the backbone, when it is needed.
        store: loads adapters when a route first names them.
    """

    def __init__(self, backbone: Backbone, tokenizer: Any, store: AdapterStore | None) -> None:
        self.bank = Bank(backbone)
        self.store = store
        self._tokenizer, self._beside = tokenizer, dict[str, Any]()
        # By adapter, not by name: what belongs to an adapter comes and goes with it, also when it is replaced.
        self._tokenizers: WeakKeyDictionary[Adapter, Any] = WeakKeyDictionary()
        self._told: WeakKeyDictionary[Adapter, set[str]] = WeakKeyDictionary()
        if store is not None:
            fingerprint(backbone)
            store.bind(self.bank, self._remember)

    def __getstate__(self) -> dict[str, Any]:
        """What a deep copy is made of: adapters are named by themselves, so that the copies keep what is theirs."""
        if self.store is not None:
            raise AdapterError(
                "A model with a store cannot be copied: the store serves one model.",
                fix="Make another AdaptedModel, with a store of its own on the same folders.",
            )
        return {**self.__dict__, "_tokenizers": [*self._tokenizers.items()], "_told": [*self._told.items()]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tokenizers, self._told = WeakKeyDictionary(state["_tokenizers"]), WeakKeyDictionary(state["_told"])

    def put(self, name: str, adapter: str | Path | Adapter | HasAdapter, *, new: bool = False) -> None:
        """Reads or copies an adapter, in full, and only then makes it resident.

        Args:
            new: nobody may have the name.

        Raises:
            AdapterFileError: a wrong file, or an adapter of another backbone.
            AdapterError: a full fine-tuning, or one that must be alone.
        """
        before = self.bank.residents.get(name)
        if before is not None:
            self._refuse(name, type(before.method))
        self.bank.refuse_beside_sole(name)
        backbone = self.bank.backbone
        fingerprint(backbone)
        if isinstance(adapter, str | Path):
            taken = shelf.take(adapter, backbone, name, share=True, refuse=partial(self._refuse, name))
            made, tokenizer = taken.adapter, taken.tokenizer
        else:
            self._refuse(name, type(adapter_of(adapter).method))
            made, tokenizer = shelf.rebuilt(adapter_of(adapter), backbone, name), getattr(adapter, "tokenizer", None)
        self._remember(shelf.Taken(made, backbone, tokenizer))
        try:
            self.bank.seat(made, new=new)
        except BaseException:
            made.body.detach()
            raise

    def _refuse(self, name: str, method: type[Method]) -> None:
        """Raises AdapterError for an adapter that cannot be put here, or not in the place of the one that is."""
        refuse_private(name, method)
        before = self.bank.residents.get(name)
        if before is not None and "sole" in (before.method.residence, method.residence):
            raise AdapterError(
                f"{name!r} cannot be replaced in one step: a method from peft replaces modules of the backbone.",
                expected="Two adapters that swap places live beside each other for a moment.",
                fix=f"Call remove({name!r}), then add({name!r}, ...).",
            )

    def _remember(self, taken: shelf.Taken) -> None:
        """Keeps what came with an adapter, and says what it has to say."""
        if taken.tokenizer is not None:
            self._tokenizers[taken.adapter] = taken.tokenizer
        tell(taken.adapter.facts.get("notices", []), self.told(taken.adapter))

    def at_hand(self, route: Route) -> Contents:
        """Who is resident, every adapter of a route among them; a store loads those that are missing.

        Raises:
            RouteError: no such adapter.
            AdapterFileError: the store could not load one.
        """
        if self.store is None or not named(route):
            return self.bank.contents
        brought = self.store.bring(named(route))
        for error in brought.failures.values():
            raise error
        return brought.contents

    def portions(self, names: Mapping[int, str]) -> Iterator[Portion]:
        """Rows in parts whose adapters can be resident together: all of them, where there is no store.

        Args:
            names: row -> adapter.

        Raises:
            RouteError: unknown names, before any work.
        """
        if self.store is None:
            contents = self.bank.contents
            for name in names.values():
                find_in(contents.adapters, name)
            yield Portion(contents, dict(names), {})
            return
        for brought in self.store.portions(names.values()):
            rows = {row: name for row, name in names.items() if name in brought.names}
            yield Portion(brought.contents, rows, brought.failures)

    def tokenizer(self, adapter: Adapter | None = None) -> Any:
        """The tokenizer that was saved with an adapter, else the model's: the one given or beside the backbone.

        Raises:
            BackboneError: none is to be found.
        """
        own = None if adapter is None else self._tokenizers.get(adapter)
        if own is not None:
            return own
        if self._tokenizer is not None:
            return self._tokenizer
        reads = "tokenizer" if adapter is None else adapter.task.reads
        if reads not in self._beside:
            self._beside[reads] = open_tokenizer(None, self.bank.backbone, None if adapter is None else adapter.task)
        return self._beside[reads]

    def told(self, adapter: Adapter) -> set[str]:
        """The notices that an adapter has given already; each is given once."""
        return self._told.setdefault(adapter, set())
