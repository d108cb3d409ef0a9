"""The heads of a mixed batch: adapters whose heads are built alike share one pass, each row with its own weights.

transformers' own code of the head runs once on their rows. Only its maps are replaced: those of a stand-in ask the
running pass for the weights, which lie side by side, one for each row.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petune.model.adapter import Adapter
from petune.model.routing import Group
from petune.model.shell import Shell
from petune.model.supplying import rows_of, supplying
from petune.model.twins import remembered, with_children
from petune.tasks.base import Task

Weights = Mapping[str, Tensor]
"""Name in the shell -> (B, *shape), one for each row."""
_weights: ContextVar[Weights] = ContextVar("petune_head_weights")


class _RowsLinear(nn.Module):
    """A linear map with weights (B, C, D) and biases (B, C) from the running pass."""

    def __init__(self, name: str, like: nn.Linear) -> None:
        super().__init__()
        self.name, self.in_features, self.out_features = name, like.in_features, like.out_features

    def forward(self, x: Tensor) -> Tensor:
        """x (B, D) or (B, T, D) -> (B, C) or (B, T, C)."""
        weight, bias = _weights.get()[f"{self.name}.weight"], _weights.get().get(f"{self.name}.bias")
        tokens = (x.unsqueeze(1) if x.dim() == 2 else x).to(weight.dtype)
        y = torch.bmm(tokens, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), tokens, weight.mT)
        return y.squeeze(1) if x.dim() == 2 else y


class _RowsLayerNorm(nn.Module):
    """A layer norm with weights and biases (B, D) from the running pass."""

    def __init__(self, name: str, like: nn.LayerNorm) -> None:
        super().__init__()
        self.name, self.shape, self.eps = name, like.normalized_shape, like.eps

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ..., D) -> the same shape."""
        weight, bias = _weights.get().get(f"{self.name}.weight"), _weights.get().get(f"{self.name}.bias")
        y = F.layer_norm(x if weight is None else x.to(weight.dtype), self.shape, eps=self.eps)
        wide = (len(x), *(1 for _ in range(x.dim() - 2)), -1)
        y = y if weight is None else y * weight.view(wide)
        return y if bias is None else y + bias.view(wide)


STAND_INS: dict[type[nn.Module], Callable[..., nn.Module]] = {nn.Linear: _RowsLinear, nn.LayerNorm: _RowsLayerNorm}


def head_logits(
    groups: Sequence[Group], output: Any, inputs: Mapping[str, Any], batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits of every adapter's rows.

    Args:
        groups: adapters with their rows; None: all.
        output: of the backbone, for the whole batch.
        inputs: of the whole batch.
        batch: B.

    Yields:
        rows and their logits, (rows, ...); together, all rows of the groups.
    """
    alike: dict[Hashable, list[Group]] = {}
    for group in groups:
        alike.setdefault(_kind(group.adapter), []).append(group)
    for kind, same in alike.items():
        if len(same) == 1:
            adapter, rows = same[0]
            logits = head_of(adapter, output, inputs, rows, batch)
        else:
            adapter, rows = same[0].adapter, _together(same, batch)
            own = bool(adapter.shell.outside)  # else the head is the backbone's, and the same for all of them
            logits = (
                _by_weights(kind, same, output, inputs, rows, batch)
                if own
                else head_of(adapter, output, inputs, rows, batch)
            )
        yield torch.arange(batch, device=logits.device) if rows is None else rows, logits


def _by_weights(
    kind: Hashable, groups: Sequence[Group], output: Any, inputs: Mapping[str, Any], rows: Tensor | None, batch: int
) -> Tensor:
    """The logits of adapters whose heads are built alike, each row by its own weights."""
    shell = groups[0].adapter.shell
    model = remembered(shell.backbone.built, ("head", kind), functools.partial(_stand_in, shell))
    token = _weights.set(_by_row(groups, batch))
    try:
        return _pass(model, groups[0].adapter, output, inputs, rows, batch)
    finally:
        _weights.reset(token)


def head_of(adapter: Adapter, output: Any, inputs: Mapping[str, Any], rows: Tensor | None, batch: int) -> Tensor:
    """The logits of one adapter's rows (None: all), (rows, ...), from the backbone's output for the whole batch."""
    return _pass(adapter.shell.supplied(), adapter, output, inputs, rows, batch)


def _pass(
    model: nn.Module, adapter: Adapter, output: Any, inputs: Mapping[str, Any], rows: Tensor | None, batch: int
) -> Tensor:
    if rows is not None:
        inputs = {name: rows_of(value, rows, batch) for name, value in inputs.items()}
        output = rows_of(output, rows, batch)
    with supplying(output):
        return adapter.task.logits(model(**adapter.shell.inputs(inputs)), inputs)


def _kind(adapter: Adapter) -> Hashable:
    """Equal for adapters whose heads can share a pass: the same class, maps of the same shapes, none in training."""
    shell = adapter.shell
    if type(adapter.task).logits is not Task.logits:
        return id(adapter)  # what it reads of the output may be its own affair
    if not shell.outside:
        return (type(shell.model),)  # a language model's, which is the backbone's
    if shell.head_shape is None or any(p.requires_grad for part in shell.outside.values() for p in part.parameters()):
        return id(adapter)
    return type(shell.model), shell.head_shape


def _by_row(groups: Sequence[Group], batch: int) -> Weights:
    """The weights of several adapters for each of their rows, in ascending order."""
    owner = {row: index for index, group in enumerate(groups) for row in _rows(group, batch)}
    parts = [group.adapter.shell.outside for group in groups]
    named = [{f"{name}.{inner}": p for name, part in outside.items() for inner, p in part.named_parameters()}
             for outside in parts]  # fmt: skip
    which = torch.tensor([owner[row] for row in sorted(owner)], device=next(iter(named[0].values())).device)
    return {name: torch.stack([each[name] for each in named]).index_select(0, which) for name in named[0]}


def _together(groups: Sequence[Group], batch: int) -> Tensor | None:
    """The rows of several adapters in ascending order; None: all rows of the batch."""
    rows = sorted(row for group in groups for row in _rows(group, batch))
    device = next((group.rows.device for group in groups if group.rows is not None), None)
    return None if len(rows) == batch else torch.tensor(rows, device=device)


def _rows(group: Group, batch: int) -> list[int]:
    return list(range(batch)) if group.rows is None else group.rows.tolist()


def _stand_in(shell: Shell) -> nn.Module:
    """The shell without its backbone, whose maps take their weights by row."""
    # A map that is a whole part knows itself by the part's name; the cast of what enters is its own.
    return with_children(shell.supplied(), {name: _stands_for(part, name) for name, part in shell.outside.items()})


def _stands_for(module: nn.Module, name: str) -> nn.Module:
    """A module of the same structure; its maps are stand-ins."""
    kind = STAND_INS.get(type(module))
    if kind is not None:
        return kind(name, module).eval()
    made = object.__new__(type(module))
    made.__dict__.update(module.__dict__)
    made._modules = {
        inner: None if child is None else _stands_for(child, f"{name}.{inner}")
        for inner, child in module._modules.items()
    }
    # The cast at the door asks the part for its type, which has no weights any more.
    made._forward_pre_hooks = OrderedDict()
    return made
