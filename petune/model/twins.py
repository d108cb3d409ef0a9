"""Twins: modules built like another one, for weights that come from a file; building anew costs far more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
Thing = TypeVar("Thing")
_KEPT = 32
_making = threading.RLock()
"""Held while something is made: settings of torch and transformers that are changed for it are the whole process's."""


def twin(module: Module) -> Module:
    """The same structure with parameters of its own, whose memory is the original's until `fill` gives them another."""
    made = object.__new__(type(module))
    made.__dict__.update(module.__dict__)
    made._parameters = {
        name: None if p is None else nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for name, p in module._parameters.items()
    }
    made._buffers = dict(module._buffers)
    made._modules = {name: None if child is None else twin(child) for name, child in module._modules.items()}
    return made


def with_children(module: Module, children: Mapping[str, nn.Module]) -> Module:
    """The same module, sharing everything, but with some direct children replaced."""
    made = object.__new__(type(module))  # copy.copy would call the constructor of a module that is sharded
    made.__dict__.update(module.__dict__)
    made.__dict__["_modules"] = {**module._modules, **children}
    return made


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Makes tensors, by name, the memory of a module's parameters and buffers; names and shapes were checked."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            path, _, short = name.rpartition(".")
            holder = module.get_submodule(path) if path else module
            parameter = holder._parameters.get(short)
            if parameter is not None:
                parameter.data = tensor.to(parameter)
            else:
                buffer = holder._buffers[short]
                assert buffer is not None
                holder._buffers[short] = tensor.to(buffer)


def remembered(kept: dict[object, object], key: object, make: Callable[[], Thing]) -> Thing:
    """What `make` gave for this key; the oldest of many is forgotten."""
    found = kept.get(key)
    if found is None:
        with _making:
            found = kept.get(key)
            if found is None:
                with torch.random.fork_rng(devices=[]):  # weights that are filled later cost nobody random numbers
                    found = kept[key] = make()
                while len(kept) > _KEPT:
                    kept.pop(next(iter(kept)), None)
    return found  # type: ignore[return-value]
