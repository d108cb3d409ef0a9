"""The shell: transformers' own model class of a task, around the shared backbone, with a head of its own.

The class is built on the meta device, so it costs nothing; the shared modules are put into it, and only the head is
given memory. Pooling, the last real token of a decoder, dropout: all of that stays transformers' code.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.errors import BackboneError
from petune.methods.base import AdapterLayer
from petune.model.backbone import Backbone, quiet, shell_config


class Shell:
    """A task's transformers model on a shared backbone.

    `model` is a true `AutoModelFor...` instance whose backbone modules are the shared ones. `head` holds the modules
    that belong to the adapter: all parameters outside of the backbone, and parts inside of it that the checkpoint
    lacked (`overlays`, path -> module), which act at their place without touching the shared module.
    """

    def __init__(self, backbone: Backbone, auto_class: str, config: dict[str, Any], *, private: bool = False) -> None:
        """Builds the shell; the head's weights are drawn from torch's global generator.

        Args:
            auto_class: such as `AutoModelForSequenceClassification`.
            config: what the task changes in the configuration.
            private: the backbone is this shell's alone, so head parts inside of it go straight to their place.

        Raises:
            BackboneError: transformers has no such class for this architecture.
        """
        self.backbone = backbone
        self.model = _on_meta(backbone, auto_class, config)
        self._takes = frozenset(inspect.signature(self.model.forward).parameters)
        base = self.base
        missing = {name for name, _ in base.named_parameters() if name in backbone.missing}
        parts = dict(_largest(base, missing))
        self.outside = {
            name: child
            for name, child in self.model.named_children()
            if child is not base and next(child.parameters(), None) is not None
        }
        self._materialise([*self.outside.values(), *parts.values()])
        _graft(base, backbone.model)
        if private:
            for path, part in parts.items():
                base.set_submodule(path, part)
        self.overlays = {} if private else {path: Overlay(part) for path, part in parts.items()}

    @property
    def base(self) -> nn.Module:
        """The shell's own base model object; its children are the shared ones."""
        return self.model.base_model

    def _materialise(self, parts: list[nn.Module]) -> None:
        """Gives the head memory and first weights. The rest is on meta still, where initialising would do nothing."""
        for part in parts:
            part.to_empty(device=self.backbone.device)
        own = {module for part in parts for module in part.modules()}
        for module in self.model.modules():
            if not own.isdisjoint(module.modules()):  # a module above a part may be the one that knows its spread
                self.model._init_weights(module)
        for part in parts:
            # A head learns in float32 even on a half-precision backbone; what enters it is cast.
            part.to(torch.float64 if self.backbone.dtype == torch.float64 else torch.float32)
            part.register_forward_pre_hook(_cast)

    def head(self) -> dict[str, nn.Parameter]:
        """The head's parameters by their name in the shell, such as `classifier.weight` or `bert.pooler.dense.bias`."""
        prefix = self.model.base_model_prefix
        parts = [*self.outside.items(), *((f"{prefix}.{path}", layer.part) for path, layer in self.overlays.items())]
        return {f"{name}.{inner}": p for name, part in parts for inner, p in part.named_parameters()}

    def head_module(self) -> nn.ModuleList:
        """The head's modules, for whoever trains or moves them."""
        return nn.ModuleList([*self.outside.values(), *self.overlays.values()])

    def inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What of a batch the shell's forward takes by name; a key-value cache, which no head needs, is turned off."""
        taken = {name: value for name, value in given.items() if name in self._takes}
        return {"use_cache": False, **taken} if "use_cache" in self._takes else taken

    def supplied(self) -> PreTrainedModel:
        """The same shell with its backbone replaced by one that hands back an output made elsewhere.

        Inside `supplying(output)` it computes the head only; inside `capturing()` it raises `Captured`.
        """
        twin = copy.copy(self.model)
        twin.__dict__["_modules"] = dict(self.model._modules)
        twin._modules[self.model.base_model_prefix] = _Supplied(self.base)
        return twin


class Overlay(AdapterLayer):
    """A head part inside the backbone, applied in place of the shared module's output."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x what entered the shared module, y what left it -> what leaves the adapter's own part."""
        own: Tensor = self.part(x)
        return own


def _cast(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What enters a head part takes the type of its weights."""
    dtype = next(module.parameters()).dtype
    return tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


class Captured(Exception):
    """Carries the arguments with which a shell called its backbone."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call = Call(args, kwargs)


class Call(NamedTuple):
    """The arguments of one backbone call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_supply: ContextVar[Any] = ContextVar("petune_supply", default=None)


@contextmanager
def supplying(output: Any) -> Iterator[None]:
    """Inside, a supplied shell's backbone returns `output`."""
    token = _supply.set(output)
    try:
        yield
    finally:
        _supply.reset(token)


class _Supplied(nn.Module):
    """Stands where the backbone stood, and returns what was computed already."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.config = base.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = _supply.get()
        if output is None:
            raise Captured(args, kwargs)
        return output


def _on_meta(backbone: Backbone, auto_class: str, changes: dict[str, Any]) -> PreTrainedModel:
    """The task's class without memory."""
    config = shell_config(backbone, changes)
    try:
        with quiet(), torch.device("meta"):
            model: PreTrainedModel = getattr(transformers, auto_class).from_config(config)
    except ValueError as error:
        task = auto_class.removeprefix("AutoModelFor")
        raise BackboneError(
            f"transformers has no {task} model for {backbone.model_type!r}.",
            expected="The task needs a class for this architecture.",
            fix="Choose another task or another backbone.",
        ) from error
    return model.eval()


def _graft(base: nn.Module, shared: nn.Module) -> None:
    """Puts the shared modules into the shell's base model; parts that only the shell has stay its own."""
    for name in list(base._modules):
        if name in shared._modules:
            base._modules[name] = shared._modules[name]
    for name in set(base._parameters) & set(shared._parameters):
        base._parameters[name] = shared._parameters[name]
    for name in set(base._buffers) & set(shared._buffers):
        base._buffers[name] = shared._buffers[name]
    base.config = shared.config


def _largest(base: nn.Module, missing: set[str]) -> Iterator[tuple[str, nn.Module]]:
    """The largest modules all of whose parameters the checkpoint lacked."""
    taken: list[str] = []
    for path, module in base.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
        if (
            path
            and names
            and all(name in missing for name in names)
            and not any(path.startswith(t + ".") for t in taken)
        ):
            taken.append(path)
            yield path, module


def rows_of(output: Any, rows: Tensor, batch: int) -> Any:
    """The rows of a backbone's output: every tensor whose leading axis is the batch is cut, in nested forms too."""
    if isinstance(output, Tensor):
        return output[rows] if output.dim() and output.shape[0] == batch else output
    if isinstance(output, dict):
        cut = {key: rows_of(value, rows, batch) for key, value in output.items() if not _is_cache(value)}
        return type(output)(**cut)
    if isinstance(output, tuple | list):
        return type(output)(rows_of(value, rows, batch) for value in output)
    return output


def _is_cache(value: Any) -> bool:
    """Key-value caches are of no use to a head."""
    return isinstance(value, transformers.Cache)
