"""The bank: the adapters that are resident on one backbone.

It keeps taps at the sites that its residents use, turns routes into frames, and is the only one who merges. Its
contents are replaced, never changed: a frame that was made keeps what it saw.
"""

from __future__ import annotations

import torch
from torch import nn

from petune.errors import AdapterError, MergeError, RouteError
from petune.lookup import near
from petune.methods.base import Site
from petune.model import attention
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone, Merged
from petune.model.bodies import KeptBits, Undo
from petune.model.routing import Frame, Route, make_frame
from petune.model.taps import Tap


class Bank:
    """The resident adapters of one backbone, by name."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.residents: dict[str, Adapter] = {}
        self.taps: dict[str, Tap] = {}
        self.attention: dict[nn.Module, str] = {}
        self._undo: list[Undo] = []
        self._mark = object()
        """Tells this bank's merges from another's; a deep copy has a mark of its own, like everything else."""

    @property
    def merged(self) -> str | None:
        """The name of the adapter that this bank has merged into the backbone."""
        note = self.backbone.merged
        return note.name if note is not None and note.by is self._mark else None

    def refuse_beside_sole(self) -> None:
        """Raises AdapterError when a resident replaces modules, so that nothing else can act here."""
        alone = next((name for name, a in self.residents.items() if a.method.residence == "sole"), None)
        if alone is not None:
            raise AdapterError(
                f"{alone!r} is a method from peft: it replaces modules of the backbone.",
                expected="Such an adapter must be the only resident.",
                fix=f"Call remove({alone!r}) first, or give it a backbone of its own.",
            )

    def add(self, adapter: Adapter) -> None:
        """Makes an adapter resident; one of the same name is replaced.

        Raises:
            AdapterError: a full fine-tuning, or an adapter that must be alone and is not.
            MergeError: while merged.
        """
        self.refuse_while_merged("add an adapter")
        others = [name for name in self.residents if name != adapter.name]
        residence = {a.method.residence for a in (adapter, *(self.residents[name] for name in others))}
        if adapter.method.residence == "private":
            raise AdapterError(
                f"{adapter.name!r} is a full fine-tuning: a whole model, no resident of this backbone.",
                fix="Load its folder with Tuner.load or with transformers.",
            )
        if others and "sole" in residence:
            raise AdapterError(
                f"{adapter.name!r} cannot live beside {', '.join(others)}.",
                expected="A method from peft replaces modules of the backbone, so it must be the only resident.",
                fix="Remove the others first, or give it a backbone of its own.",
            )
        try:
            self._tap(adapter)
        except BaseException:
            self._untap()  # a module that cannot be hooked: everything stays as it was
            raise
        replaced = self.residents.get(adapter.name, adapter)
        self.residents = {**self.residents, adapter.name: adapter}
        if replaced is not adapter:
            replaced.body.detach()
        self._untap()

    def settle(self, adapter: Adapter) -> None:
        """Puts the settled form of a resident in its place; it acts at the same sites."""
        self.residents = {**self.residents, adapter.name: adapter}

    def remove(self, name: str) -> Adapter:
        """Takes an adapter out; sites that no other resident uses are bare again.

        Raises:
            RouteError: no such resident.
            MergeError: while merged.
        """
        self.refuse_while_merged("remove an adapter")
        gone = self.find(name)
        self.residents = {key: value for key, value in self.residents.items() if key != name}
        gone.body.detach()
        self._untap()
        return gone

    def _untap(self) -> None:
        """Leaves the sites that no resident uses."""
        used = {path for adapter in self.residents.values() for path in _paths(adapter)}
        for path in [path for path in self.taps if path not in used]:
            self.taps.pop(path).detach()
        left = {module: path for module, path in self.attention.items() if path in used}
        if self.attention and not left:
            attention.switch_off(self.backbone.model)
        self.attention = left

    def _tap(self, adapter: Adapter) -> None:
        """Listens at every site of an adapter where nobody listens yet."""
        base = adapter.shell.base
        heads = [Site(p, "head", -1, base.get_submodule(p), base.get_submodule(p)) for p in adapter.shell.overlays]
        for site in [*adapter.body.sites, *heads]:
            if site.kind == "attention":
                if not self.attention:
                    attention.switch_on(self.backbone.model)
                self.attention = {**self.attention, site.output: site.path}
            elif site.path not in self.taps:
                self.taps[site.path] = Tap(self, site)

    def attention_path(self, module: nn.Module) -> str | None:
        """The path of an attention module at which some resident has a prefix."""
        return self.attention.get(module)

    def find(self, name: str) -> Adapter:
        """A resident by name.

        Raises:
            RouteError: no such resident; the near names are suggested.
        """
        if name not in self.residents:
            raise RouteError(
                f"There is no adapter {name!r} here.",
                fix=near(name, self.residents) if self.residents else "Add one first: add(name, folder).",
            )
        return self.residents[name]

    def frame(self, route: Route) -> Frame:
        """The frame of one call; unknown names are errors before any work.

        Raises:
            RouteError: unknown names, or no route at all.
            MergeError: while merged, any other route than the merged adapter's.
        """
        frame = make_frame(self, route, self.find, self.backbone.device)
        if isinstance(route, str) and route == self.merged:
            return Frame(self, ())
        self.refuse_while_merged("use another route")
        return frame

    def refuse_while_merged(self, work: str) -> None:
        """Raises MergeError while an adapter is merged in, be it by another tuner on the same backbone."""
        if self.backbone.merged is not None:
            raise MergeError(
                f"The adapter {self.backbone.merged.name!r} is merged into the backbone.",
                expected=f"While merged, petune cannot {work}.",
                fix="Call unmerge() first; if whoever merged it is gone, load the backbone anew.",
            )

    def merge(self, name: str) -> Adapter:
        """Writes an adapter into the backbone, head parts inside of it included; the original bits are kept.

        Raises:
            MergeError: merged already, or a method without a weight change.
        """
        self.refuse_while_merged("merge again")
        adapter = self.find(name)
        self._undo = [adapter.body.merge()]
        for path, layer in adapter.shell.overlays.items():
            self._undo.append(_swap_in(adapter.shell.base.get_submodule(path), layer.part))
        self.backbone.merged = Merged(name, self._mark)
        return adapter

    def unmerge(self) -> None:
        """Puts the original bits back.

        Raises:
            MergeError: nothing is merged.
        """
        if self.merged is None or not self._undo:
            raise MergeError("Nothing is merged here.", expected="unmerge() undoes merge().")
        for undo in reversed(self._undo):
            undo()
        self._undo, self.backbone.merged = [], None


def _paths(adapter: Adapter) -> list[str]:
    """Where an adapter acts inside the backbone."""
    return [*(site.path for site in adapter.body.sites), *adapter.shell.overlays]


@torch.no_grad()
def _swap_in(shared: nn.Module, own: nn.Module) -> Undo:
    """Copies a head part's weights over the shared module's; the result copies the old ones back."""
    kept, source = KeptBits(), dict(own.named_parameters())
    for name, parameter in shared.named_parameters():
        kept.keep(parameter)
        parameter.copy_(source[name])
    return kept.restore
