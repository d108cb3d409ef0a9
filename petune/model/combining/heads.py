"""What becomes of the heads. A head is no change of weights: it is averaged, or one adapter's is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from petune.errors import AdapterError, ConfigError
from petune.lookup import unknown
from petune.model.adapter import Adapter


def chosen_head(adapters: Sequence[Adapter], head: str | int) -> int:
    """The place of the adapter whose head is kept.

    Args:
        head: its name or its place in the list.

    Raises:
        UnknownNameError: no adapter of that name.
        ConfigError: a place that there is not, or a name that several have.
    """
    names = [adapter.name for adapter in adapters]
    if isinstance(head, str):
        places = [place for place, name in enumerate(names) if name == head]
        if not places:
            raise unknown("adapter", head, names)
        if len(places) > 1:
            raise ConfigError(
                f"head={head!r} names {len(places)} of the adapters.", fix=f"Give its place: head={places[0]}."
            )
        return places[0]
    if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < len(names):
        raise ConfigError(
            f"head={head!r} names none of the adapters.", expected=f"A name, or a place from 0 to {len(names) - 1}."
        )
    return head


def mean_head(adapters: Sequence[Adapter], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean Σ wᵢ hᵢ / Σ wᵢ of the heads, in float32; heads that are all alike stay as they are.

    Raises:
        AdapterError: heads of other tasks, labels or shapes, or weights that make no mean.
    """
    first, heads = adapters[0], [adapter.head() for adapter in adapters]
    for adapter, head in zip(adapters, heads, strict=True):
        _refuse_other(first, heads[0], adapter, head)
    if all(torch.equal(head[name], tensor) for head in heads for name, tensor in heads[0].items()):
        return heads[0]
    total = sum(weights)
    if min(weights) < 0 or total <= 0:
        raise AdapterError(
            f"The weights {', '.join(f'{weight:g}' for weight in weights)} make no mean of the heads.",
            expected="A head is no change that could be subtracted: its weights are 0 or more, and not all 0.",
            fix=f"Pass head={first.name!r} (or a place in the list) to keep one adapter's head.",
        )
    shares = [weight / total for weight in weights]
    return {
        name: torch.stack([head[name].double() * share for head, share in zip(heads, shares, strict=True)]).sum(0)
        for name in heads[0]
    }


def _refuse_other(first: Adapter, wanted: Mapping[str, Tensor], other: Adapter, head: Mapping[str, Tensor]) -> None:
    """Raises AdapterError for a head that answers another question, or has another shape."""
    keep = f"Pass head={first.name!r} (or a place in the list) to keep one adapter's head, task and labels."
    answers = [(type(adapter.task), adapter.task.model_config()) for adapter in (first, other)]
    if answers[0] != answers[1]:
        raise AdapterError(
            f"{first.name!r} answers in {_answers(first)}, {other.name!r} in {_answers(other)}.",
            expected="Heads are averaged where the task and the labels, in their order, are the same.",
            fix=keep,
        )
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (wanted, head)]
    if shapes[0] != shapes[1]:
        odd = min(name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise AdapterError(
            f"The heads of {first.name!r} and {other.name!r} differ in {odd!r}.",
            expected="Heads are averaged where they have the same parts and shapes.",
            fix=keep,
        )


def _answers(adapter: Adapter) -> str:
    labels = ", ".join(adapter.task.labels[:6]) + (", ..." if len(adapter.task.labels) > 6 else "")
    return f"{type(adapter.task).__name__} ({labels or 'numbers'})"
