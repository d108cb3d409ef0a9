"""Stacks: the layers of many adapters at one site, side by side in one tensor with a slot axis.

A stack holds layers of one kind and one bucket of inner size (ranks 5 to 8 share the bucket 8; what is narrower is
padded with zeros). It grows by doubling, and resident layers are views of it. A call sees a `Lane`, a snapshot: a
stack that grows makes new tensors and leaves the old ones to the calls that run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from petune.methods._stacking import Own
from petune.methods.base import AdapterLayer


def bucket_of(width: int) -> int:
    """The power of two that holds an inner size.

    Examples:
        >>> [bucket_of(width) for width in (1, 3, 8, 48)]
        [1, 4, 8, 64]
    """
    return 1 << (width - 1).bit_length()


def width_of(layer: AdapterLayer) -> int:
    """R, M or P of a layer."""
    name, axis = next((name, axis) for name, axis in layer.inner.items() if axis is not None)
    return parameter_of(layer, name).shape[axis]


def parameter_of(layer: AdapterLayer, name: str) -> nn.Parameter:
    """A parameter of a layer by name; most lie in the layer itself."""
    found = layer._parameters.get(name)
    return layer.get_parameter(name) if found is None else found


class Lane(NamedTuple):
    """What a call sees of a stack. It is replaced, never changed; slots that a call does not use may be written.

    Args:
        number: of the stack in its bank: its row in the table of slots, and its bit in the seats' masks.
        tensors: short name -> (S, bucket, ...), or (S, ...) for tensors without an inner axis.
        widths: the true inner size of each slot.
        scale: of every slot, or (S, 1, 1) where they differ.
    """

    number: int
    layer: type[AdapterLayer]
    bucket: int
    options: tuple[Any, ...]
    tensors: dict[str, Tensor]
    widths: list[int]
    scale: float | Tensor

    def one(self, slot: int) -> Own:
        """One adapter's weights, without the padding."""
        width = self.widths[slot]
        own = {name: tensor[slot] for name, tensor in self.tensors.items()}
        if torch.is_grad_enabled():
            # A graph outlives its call, and the slot may be another adapter's by the time of the backward pass.
            own = {name: tensor.clone() for name, tensor in own.items()}
        if width < self.bucket:
            inner = self.layer.inner
            own = {name: tensor if inner[name] is None else tensor[:width] for name, tensor in own.items()}
        scale = self.scale[slot].item() if isinstance(self.scale, Tensor) else self.scale
        return Own(own, scale, self.options)

    def rows(self, slots: Tensor, start: int | None = None, count: int | None = None) -> Own:
        """Each row's weights.

        Args:
            slots: (B,) int64.
            start: the first of them, where they follow each other: then nothing is copied.
            count: B, where it is known; to ask a tensor takes longer.
        """
        if start is None or torch.is_grad_enabled():  # a graph outlives its call, as in `one`
            own = {name: tensor.index_select(0, slots) for name, tensor in self.tensors.items()}
        else:
            count = len(slots) if count is None else count
            own = {name: tensor.narrow(0, start, count) for name, tensor in self.tensors.items()}
        scale = self.scale.index_select(0, slots) if isinstance(self.scale, Tensor) else self.scale
        return Own(own, scale, self.options)


def key_of(layer: AdapterLayer) -> Hashable:
    """Layers with equal keys at a site share a stack."""
    width = bucket_of(width_of(layer))
    return type(layer), width, layer.options, *(_slot(layer, name, width) for name in layer.inner)


def _slot(layer: AdapterLayer, name: str, bucket: int) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape of a parameter's slot, and its type: inner axis first, and as long as the bucket."""
    parameter, axis = parameter_of(layer, name), layer.inner[name]
    shape = list(parameter.mT.shape if axis == 1 else parameter.shape)
    if axis is not None:
        shape[0] = bucket
    return tuple(shape), parameter.dtype


class Stack:
    """The layers of one key at one site.

    Args:
        like: a layer of that key.
        room: slots to begin with.
    """

    def __init__(self, number: int, like: AdapterLayer, device: torch.device, room: int = 1) -> None:
        self.number, self._like, self._device, self._room = number, type(like), device, room
        self._options, self._bucket = like.options, bucket_of(width_of(like))
        self._empty = {name: _slot(like, name, self._bucket) for name in like.inner}
        self._layers: list[AdapterLayer | None] = []
        """The resident of each slot; None: free."""
        self._free: list[int] = []
        self._tensors: dict[str, Tensor] = {}
        self._widths: list[int] = []
        self._scales = torch.ones(0, 1, 1, device=device)
        self._said: Counter[float] = Counter()
        """How many residents have each scale; while there is but one, no call multiplies by a tensor."""
        self.lane = self._lane()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A deep copy's layers are views of its own tensors, as the original's are."""
        self.__dict__.update(state)
        self._bind_all()

    @property
    def used_bytes(self) -> int:
        """Of the slots in use, padding included."""
        return self._slot_bytes * sum(layer is not None for layer in self._layers)

    @property
    def allocated_bytes(self) -> int:
        """Of all slots."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())

    @property
    def _slot_bytes(self) -> int:
        return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in self._empty.values())

    def put(self, layer: AdapterLayer) -> int:
        """Copies a layer's tensors into a free slot and makes its parameters views of it."""
        if not self._free:
            self._grow(max(self._room, 2 * len(self._layers)))
        slot = self._free.pop()
        self._layers[slot], self._widths[slot], self._scales[slot] = layer, width_of(layer), layer.scale
        self._said[layer.scale] += 1
        for name, tensor in self._tensors.items():
            if self._widths[slot] < self._bucket:
                tensor.data[slot].zero_()  # `.data`: a version counter of its own; no call's backward is disturbed
            self._bind(layer, name, slot, copy=True)
        self.lane = self._lane()
        return slot

    def free(self, slot: int) -> None:
        """Gives a slot back; nobody may read it any more."""
        layer, self._layers[slot] = self._layers[slot], None
        if layer is not None:
            self._said[layer.scale] -= 1
            self._said += Counter()  # drops what nobody has
        self._free.append(slot)

    def _grow(self, capacity: int) -> None:
        """New, longer tensors; the residents become views of them."""
        old, before = self._tensors, len(self._layers)
        self._tensors = {
            name: torch.zeros((capacity, *shape), dtype=dtype, device=self._device)
            for name, (shape, dtype) in self._empty.items()
        }
        for name, tensor in old.items():
            self._tensors[name][:before].copy_(tensor)
        self._layers += [None] * (capacity - before)
        self._scales = torch.cat([self._scales, self._scales.new_ones(capacity - before, 1, 1)])
        self._widths = self._widths + [0] * (capacity - before)
        self._free += range(capacity - 1, before - 1, -1)
        self._bind_all()

    def _bind_all(self) -> None:
        """Points every resident's parameters at their places."""
        for slot, layer in enumerate(self._layers):
            for name in self._tensors if layer is not None else ():
                self._bind(layer, name, slot)  # type: ignore[arg-type]

    @torch.no_grad()
    def _bind(self, layer: AdapterLayer, name: str, slot: int, *, copy: bool = False) -> None:
        """Points a layer's parameter at its place in the stack."""
        axis, view = self._like.inner[name], self._tensors[name].data[slot]
        if axis is not None:
            view = view[: self._widths[slot]]
        view = view.mT if axis == 1 else view
        parameter = parameter_of(layer, name)
        if copy:
            view.copy_(parameter)
        parameter.data = view
        parameter.requires_grad_(False)

    def _lane(self) -> Lane:
        scale = next(iter(self._said), 1.0) if len(self._said) < 2 else self._scales
        return Lane(self.number, self._like, self._bucket, self._options, self._tensors, self._widths, scale)
