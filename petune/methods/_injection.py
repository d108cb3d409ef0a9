"""Modules that another library put into a backbone: how they are found, saved, merged and taken out again.

Nothing here knows peft: `methods/peft.py` makes the replacement and hands over what it made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from petune.errors import AdapterError, MergeError
from petune.lookup import near

ADAPTER = "default"
"""The name under which the other library keeps its adapter; it is no part of a tensor's name here."""


class Tree:
    """Which module, parameter and buffer objects hang where in a model, and which attributes they have."""

    def __init__(self, root: nn.Module) -> None:
        self._kept = [
            (m, dict(m._modules), dict(m._parameters), dict(m._buffers), set(m.__dict__)) for m in root.modules()
        ]

    def restore(self) -> None:
        """Hangs the very same objects back; attributes that are new are taken off."""
        for module, modules, parameters, buffers, attributes in self._kept:
            for now, then in ((module._modules, modules), (module._parameters, parameters), (module._buffers, buffers)):
                now.clear()
                now.update(then)  # type: ignore[arg-type]
            for name in set(module.__dict__) - attributes:
                del module.__dict__[name]

    def tensors(self) -> dict[int, Tensor]:
        """id -> parameter or buffer."""
        return {id(t): t for _, _, p, b, _ in self._kept for t in (*p.values(), *b.values()) if t is not None}


class Made(NamedTuple):
    """What was put into the model.

    Args:
        tuner: holds the model as `model`, and what its layers share.
        layers: path -> the module that stands there in place of the original.
        export: (address, shape) -> the name that the library's own file format gives that tensor.
        merge: adds the change to the original weights, in place.
        method: the method as it was resolved: the paths of the sites in place of patterns.
    """

    tuner: nn.Module
    layers: dict[str, Any]
    export: dict[tuple[int, tuple[int, ...]], str]
    merge: Callable[[], None]
    method: Any


class Injected:
    """An adapter of another library, in its place.

    Args:
        root: the model.
        make: puts the modules in.

    Raises:
        PetuneError: what `make` raises; the model is then as it was.
    """

    def __init__(self, root: nn.Module, make: Callable[[], Made]) -> None:
        self._root = root
        self._before = Tree(root)
        self._flags = [(parameter, parameter.requires_grad) for parameter in root.parameters()]
        self._merged: list[tuple[nn.Parameter, Tensor]] | None = None
        try:
            self._made = make()
        except BaseException:
            self._put_back()
            raise
        self._after = Tree(root)
        state = set(self._made.tuner.state_dict())
        self._state = {id(tensor) for name, tensor in _every(self._made.tuner) if name in state}

    @property
    def method(self) -> Any:
        """The method with its sites resolved to module paths: what is saved, so that no pattern is read from files."""
        return self._made.method

    @property
    def sites(self) -> tuple[str, ...]:
        """The paths of the replaced modules."""
        return tuple(self._made.layers)

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return {name: t for name, t in self._own() if isinstance(t, nn.Parameter) and t.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is not the backbone's: what trains, and frozen projections and other buffers.

        Index tables that the library makes anew each time (buffers that are no part of its state) are left out.
        """
        return {name: t.detach() for name, t in self._own() if t.is_floating_point() or id(t) in self._state}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies values in.

        Raises:
            AdapterError: names or shapes that differ from those here; nothing is copied then.
        """
        own = dict(self._own())
        # Fixed projections that the library leaves out of its own files are the same ones again, made from a seed.
        needed = {name for name, tensor in own.items() if id(tensor) in self._state}
        odd = (needed - set(tensors)) or (set(tensors) - set(own))
        if odd:
            name = min(odd)
            what = "lacks" if name in own else "has, but this adapter does not know,"
            others = set(tensors) - set(own) if name in own else needed - set(tensors)
            raise AdapterError(f"The file {what} the tensor {name!r}.", fix=near(name, others) if others else "")
        own = {name: tensor for name, tensor in own.items() if name in tensors}
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise AdapterError(
                    f"The tensor {name!r} is {tuple(tensors[name].shape)}.", expected=f"{tuple(tensor.shape)}."
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    def merge(self) -> None:
        """Adds the change to the original modules' weights and puts them back in place; `unmerge` undoes it exactly.

        Raises:
            MergeError: the method has no change of weights, or it is not finite; everything is then as it was.
        """
        if self._merged is not None:
            raise MergeError("This adapter is merged already.", fix="Call unmerge() first.")
        originals = {path: layer.get_base_layer() for path, layer in self._made.layers.items()}
        weights = {id(p): p for module in originals.values() for p in module.parameters()}
        kept = [(parameter, parameter.data) for parameter in weights.values()]
        for parameter, bits in kept:
            parameter.data = bits.clone()  # the original bits stay untouched beside it
        self._merged = kept
        try:
            self._made.merge()
            self._check_merge(originals, set(weights))
        except Exception as error:
            self.unmerge()
            raise MergeError(
                f"This {self._made.method.config.peft_type.value} adapter cannot be merged: {error}.",
                expected="A method whose change is a change of the original weights.",
                fix="Keep it active instead.",
            ) from error
        self._before.restore()

    def unmerge(self) -> None:
        """Puts the adapter back beside the original weights, whose bits are the kept ones.

        Raises:
            MergeError: when it is not merged.
        """
        if self._merged is None:
            raise MergeError("This adapter is not merged.")
        self._after.restore()
        for layer in self._made.layers.values():
            layer.merged_adapters.clear()
        for parameter, bits in self._merged:
            parameter.data = bits
        self._merged = None

    def remove(self) -> None:
        """Puts the original modules back: the same objects, bits and `requires_grad` flags as before."""
        if self._merged is not None:
            self.unmerge()
        self._put_back()

    def _put_back(self) -> None:
        self._before.restore()
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)

    def _check_merge(self, originals: Mapping[str, nn.Module], known: set[int]) -> None:
        """Whether the change really went into the original modules' own parameters."""
        for path, layer in self._made.layers.items():
            if not layer.merged_adapters:
                raise MergeError(f"nothing was merged at {path!r}")
            here = originals[path]
            if layer.get_base_layer() is not here or {id(p) for p in here.parameters()} - known:
                raise MergeError(f"the module at {path!r} would be replaced by another one")
            if not all(bool(torch.isfinite(p).all()) for p in here.parameters()):
                raise MergeError(f"the merged weights at {path!r} are not finite")

    def _own(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of everything that is not the backbone's; what layers share is named once, by its holder."""
        original = self._before.tensors()
        found: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in _every(self._made.tuner):
            if id(tensor) not in original and (id(tensor) not in found or _depth(name) < _depth(found[id(tensor)][0])):
                found[id(tensor)] = (name, tensor)
        for name, tensor in found.values():
            yield self._made.export.get((tensor.data_ptr(), tuple(tensor.shape)), _plain(name)), tensor


def _every(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _depth(name: str) -> int:
    return name.count(".")


def _plain(name: str) -> str:
    """The name without the other library's adapter name."""
    return name.replace(f".{ADAPTER}.", ".").removesuffix(f".{ADAPTER}")
