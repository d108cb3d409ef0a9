"""The bank: the adapters that are resident on one backbone.

It keeps taps at the sites that its residents use, turns routes into frames, and is the only one who merges. Its
contents are replaced, never changed: a frame that was made keeps what it saw. Adapters that serve are seated: their
layers lie in stacks, so that a batch with many of them costs what a batch with one does. An adapter in training is
added as it is: its layers are called, and own their parameters.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import nn

from petune.errors import AdapterError, MergeError
from petune.model import framing
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone, Merged
from petune.model.bodies import KeptBits, Undo, refuse_private, refuse_replaced
from petune.model.framing import find_in
from petune.model.gate import changing
from petune.model.listening import Listening
from petune.model.routing import Frame, Route
from petune.model.seating import Chart, Seat, Seating
from petune.model.taps import Tap


class Contents(NamedTuple):
    """Who is resident; one immutable whole, so that a call that reads it once sees no half of a change."""

    adapters: Mapping[str, Adapter]
    seats: Mapping[str, Seat]
    chart: Chart


class Bank:
    """The resident adapters of one backbone, by name."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._seating = Seating(backbone.device)
        self.contents = Contents({}, {}, self._seating.chart())
        self._listening = Listening(self, backbone)
        self._held: WeakSet[Seat] = WeakSet()
        """Every seat that somebody holds: a call may still be running on one that is no resident's any more."""
        self._changing = threading.RLock()
        self._undo: list[Undo] = []
        self._mark = object()
        """Tells this bank's merges from another's; a deep copy has a mark of its own, like everything else."""

    def __getstate__(self) -> dict[str, Any]:
        """What a deep copy is made of: it gets a lock, and a list of who is seated, of its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_changing", "_held")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._changing, self._held = threading.RLock(), WeakSet(self.contents.seats.values())

    @property
    def steady(self) -> AbstractContextManager[Any]:
        """Inside, no other thread changes who is resident."""
        return self._changing

    @property
    def residents(self) -> Mapping[str, Adapter]:
        """The resident adapters by name."""
        return self.contents.adapters

    @property
    def merged(self) -> str | None:
        """The name of the adapter that this bank has merged into the backbone."""
        note = self.backbone.merged
        return note.name if note is not None and note.by is self._mark else None

    def refuse_beside_sole(self, name: str | None = None) -> None:
        """Raises AdapterError when a resident, another one than `name`, replaces modules: nothing else can act here."""
        others = ((key, a.method.residence) for key, a in self.residents.items() if key != name)
        alone = next((key for key, residence in others if residence == "sole"), None)
        if alone is not None:
            raise AdapterError(
                f"{alone!r} is a method from peft: it replaces modules of the backbone.",
                expected="Such an adapter must be the only resident.",
                fix=f"Call remove({alone!r}) first, or give it a backbone of its own.",
            )
        refuse_replaced(self.backbone.model)

    def refuse_taken(self, name: str) -> None:
        """Raises AdapterError where there is a resident of this name."""
        if name in self.residents:
            raise AdapterError(
                f"There is an adapter {name!r} already.",
                fix=f"Call replace({name!r}, ...) to swap it, or take another name.",
            )

    def add(self, adapter: Adapter, *, new: bool = False) -> None:
        """Makes an adapter resident; one of the same name is replaced, unless it is to be `new`.

        Raises:
            AdapterError: a full fine-tuning, or an adapter that must be alone and is not.
            MergeError: while merged.
        """
        with self._changing:
            self._refuse(adapter, new)
            self._listening.listen(adapter, self._untap)
            replaced = self.residents.get(adapter.name, adapter)
            self._publish(adapter, None)
            if replaced is not adapter:
                replaced.body.detach()
            self._untap()

    def _refuse(self, adapter: Adapter, new: bool) -> None:
        """Raises what speaks against a resident."""
        self.refuse_while_merged("add an adapter")
        refuse_private(adapter.name, adapter.method)
        if new:
            self.refuse_taken(adapter.name)
        others = [name for name in self.residents if name != adapter.name]
        residence = {a.method.residence for a in (adapter, *(self.residents[name] for name in others))}
        if others and "sole" in residence:
            raise AdapterError(
                f"{adapter.name!r} cannot live beside {', '.join(others)}.",
                expected="A method from peft replaces modules of the backbone, so it must be the only resident.",
                fix="Remove the others first, or give it a backbone of its own.",
            )

    def seat(self, adapter: Adapter, *, new: bool = False) -> None:
        """As `add`, in the stacks, and in one step: one of the same name is replaced as a whole. The bank takes the
        adapter over: its parameters become views that move when stacks grow.

        Raises:
            AdapterError, MergeError: as `add`.
        """
        if adapter.method.residence != "shared":
            self.add(adapter, new=new)
            return
        with self._changing:
            self._refuse(adapter, new)
            self._listening.listen(adapter, self._untap)
            try:
                seat = self._seating.seat(adapter)
            except BaseException:
                self._untap()
                raise
            self._held.add(seat)
            replaced = adapter.name in self.residents
            self._publish(adapter, seat)
            if replaced:
                self._untap()

    def _publish(self, adapter: Adapter, seat: Seat | None) -> None:
        """From here on, new calls see this adapter under its name."""
        seats = {name: it for name, it in {**self.contents.seats, adapter.name: seat}.items() if it is not None}
        self.contents = Contents({**self.residents, adapter.name: adapter}, seats, self._seating.chart())

    def compact(self) -> None:
        """Gives back the room that stacks hold in reserve; calls that run keep what they saw."""
        with self._changing:
            fresh = Seating(self.backbone.device, [seat.adapter for seat in self.contents.seats.values()])
            seats = {name: fresh.seat(seat.adapter) for name, seat in self.contents.seats.items()}
            self._held.update(seats.values())
            self._seating = fresh
            self.contents = Contents(self.residents, seats, fresh.chart())

    @property
    def used_bytes(self) -> int:
        """Of the stacks' slots in use, padding to the bucket included."""
        with self._changing:
            return self._seating.used_bytes

    @property
    def allocated_bytes(self) -> int:
        """Of the stacks."""
        return self._seating.allocated_bytes

    def settle(self, adapter: Adapter) -> None:
        """Puts the settled form of a resident in training in its place; it acts at the same sites."""
        with self._changing:
            self._publish(adapter, None)

    def remove(self, name: str) -> Adapter:
        """Takes an adapter out; sites that no other resident uses are bare again.

        Raises:
            RouteError: no such resident.
            MergeError: while merged.
        """
        sole = self.find(name).method.residence == "sole"
        with changing(self.backbone.model) if sole else nullcontext(), self._changing:
            self.refuse_while_merged("remove an adapter")
            gone = self.find(name)
            adapters = {key: value for key, value in self.residents.items() if key != name}
            seats = {key: seat for key, seat in self.contents.seats.items() if key != name}
            self.contents = Contents(adapters, seats, self._seating.chart())
            gone.body.detach()
            self._untap()
            return gone

    def _untap(self) -> None:
        """Leaves the sites that no resident uses, and no call that still runs."""
        users = {id(adapter): adapter for adapter in (*self.residents.values(), *(seat.adapter for seat in self._held))}
        self._listening.leave_all_but(users.values())

    @property
    def taps(self) -> Mapping[str, Tap]:
        """Site path -> what listens there."""
        return self._listening.taps

    @property
    def attention(self) -> Mapping[nn.Module, str]:
        """The attention modules at which some resident has a prefix, with their paths."""
        return self._listening.attention

    def find(self, name: str) -> Adapter:
        """A resident by name.

        Raises:
            RouteError: no such resident; the near names are suggested.
        """
        return find_in(self.residents, name)

    def frame(self, route: Route, contents: Contents | None = None) -> Frame:
        """The frame of one call; unknown names are errors before any work.

        Args:
            contents: as they were when a call of several forwards began; None: as they are now.

        Raises:
            RouteError: unknown names, or no route at all.
            MergeError: while merged, any other route than the merged adapter's.
        """
        frame = framing.frame(self, self.contents if contents is None else contents, route)
        frame.merged = self.merged
        if frame.merged is not None and frame.serves_only(frame.merged):
            return frame.without_adapters()
        self.refuse_while_merged("use another route")
        framing.refuse_beside_replaced(self.backbone.model, frame)
        return frame

    def still(self, frame: Frame) -> Frame:
        """A frame for a call that begins now: the same one, unless somebody merged or unmerged since it was made.

        Raises:
            MergeError, RouteError: its route cannot be served any more.
        """
        if frame.merged == self.merged and (self.merged is not None or self.backbone.merged is None):
            framing.refuse_gone(self.residents, frame)
            framing.refuse_beside_replaced(self.backbone.model, frame)
            return frame.fresh()
        return self.frame(frame.route)

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
        self._undo = [adapter.body.merge(adapter.shell.base)]
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


@torch.no_grad()
def _swap_in(shared: nn.Module, own: nn.Module) -> Undo:
    """Copies a head part's weights over the shared module's; the result copies the old ones back."""
    kept, source = KeptBits(), dict(own.named_parameters())
    for name, parameter in shared.named_parameters():
        kept.keep(parameter)
        parameter.copy_(source[name])
    return kept.restore
