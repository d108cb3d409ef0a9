"""Padding-free execution: the blocks of a backbone work on real pieces only, and no loss or gradient changes.

Before the first block that a batch reaches, its padding is left out (see `petune.model.packed`); after the last one it
is put back as zeros, so embeddings, poolers and heads see the batch as ever. In between the states are (1, N, D).

The calls of the blocks are intercepted while an adapter is fitted, each by what its own call says: others, such as
another thread's, go their usual way. Module tree, classes and state_dict stay untouched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from petune.errors import ConfigError
from petune.model.attention import kinds_of, switch_off, switch_on
from petune.model.families import FAMILIES
from petune.model.intercepting import Forward, intercepting, of_calls, saying
from petune.model.packed import Layout, Unpadded, layout_of

if TYPE_CHECKING:
    from petune.model.learner import Learner

WORTH = 0.1
"""The share of padding from which on `"auto"` leaves it out; below it the packing costs what it saves."""
SHARE = "unpadded from this share of padding"
"""Where a learner keeps it, beside its modules."""

_running: ContextVar[Layout | None] = of_calls("petune_layout", None)


@contextmanager
def unpadded(learner: Learner, padding_free: bool | Literal["auto"]) -> Iterator[None]:
    """Inside, the learner's own calls in train mode leave padding out.

    Args:
        padding_free: `"auto"`: of batches of which a share of `WORTH` or more is padding, where architecture and
            method allow it; True: of every batch; False: of none.

    Raises:
        ConfigError: True, where it cannot be.
    """
    reason = reason_against(learner) if padding_free else "it was not asked for"
    if reason and padding_free is True:
        raise ConfigError(
            "padding_free=True cannot be kept here.",
            expected=f"The blocks must be able to do without padding, but {reason}.",
            fix="Use padding_free='auto', which pads where it must.",
        )
    if reason:
        yield
        return
    shell = learner.adapter.shell
    switch_on(shell.backbone.model)
    learner.__dict__[SHARE] = WORTH if padding_free == "auto" else 0.0
    try:
        blocks = [block for _, block in shell.backbone.blocks(shell.base)]
        with intercepting(blocks, lambda at, forward: _Interceptor(blocks, at, forward).forward):
            yield
    finally:
        del learner.__dict__[SHARE]
        switch_off(shell.backbone.model)


def reason_against(learner: Learner) -> str | None:
    """Why the blocks of a learner's backbone cannot leave padding out; None: they can."""
    adapter = learner.adapter
    backbone, method = adapter.shell.backbone, adapter.method
    family, config = FAMILIES.get(backbone.model_type), backbone.model.config
    if family is None or not family.packs:
        return f"those of {backbone.model_type!r} are not known to work piece by piece"
    if method.residence == "sole":
        return "a method from peft replaces modules of theirs"
    if any(site.kind == "attention" for site in adapter.body.sites):
        return f"a {type(method).__name__.lower()} acts on the attention of whole rows"
    if getattr(config, "chunk_size_feed_forward", 0) or getattr(config, "add_cross_attention", False):
        return "this backbone's configuration chunks its feed-forward or attends to another model"
    if getattr(config, "reorder_and_upcast_attn", False):
        return "this backbone's attention is computed apart from transformers' registry"
    if strange := kinds_of(backbone.model) - {"sdpa", "eager"}:
        return f"the attention {', '.join(sorted(strange))} has a way of its own"
    return None


@contextmanager
def leaving_out(learner: nn.Module, inputs: Mapping[str, Any], host_mask: Tensor | None = None) -> Iterator[None]:
    """Around one forward of a learner: its blocks leave out the padding of these inputs, where that was decided.

    Args:
        host_mask: the attention mask on the host, which need not wait for it then.
    """
    share, mask = learner.__dict__.get(SHARE), inputs.get("attention_mask")
    layout = None
    if share is not None and learner.training and isinstance(mask, Tensor) and mask.dim() == 2:
        found = layout_of(mask if host_mask is None else host_mask, mask.device)
        layout = found if found is not None and found.padding_share > 0 and found.padding_share >= share else None
    with saying(_running, layout):
        yield


def whole(state: Tensor) -> Tensor:
    """A state inside the running call, (B, T, D), with the padding put back if it was left out."""
    layout = _running.get()
    return state if layout is None else _whole(layout, state)


class _Interceptor:
    """Stands before one block. Its `forward` is a bound method, so that a deep copy re-binds it."""

    def __init__(self, blocks: Sequence[nn.Module], index: int, inner: Forward) -> None:
        self._inner, self._last = inner, index == len(blocks) - 1
        self._names = _positional(type(blocks[index]).forward)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output; in a call without padding (1, N, D), but (B, T, D) from the last block.

        By its shape a state tells whether its padding is still there, whoever made it: a trunk's are handed in whole.
        """
        layout = None if torch.compiler.is_compiling() else _running.get()
        if layout is None:
            return self._inner(*args, **kwargs)
        given, names = list(args), self._names
        _change(given, kwargs, names, "hidden_states", lambda state: _packed(layout, state))
        _change(given, kwargs, names, "attention_mask", lambda mask: Unpadded(layout, mask))
        for name in ("position_embeddings", "position_ids"):
            _change(given, kwargs, names, name, lambda positions: _positions(layout, positions))
        output = self._inner(*given, **kwargs)
        if not self._last:
            return output
        if isinstance(output, tuple):
            return (_whole(layout, output[0]), *output[1:])
        return _whole(layout, output)


def _positional(forward: Callable[..., Any]) -> list[str]:
    """The names of a block's arguments in their order, without `self`."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [it.name for it in inspect.signature(forward).parameters.values() if it.kind in kinds][1:]


def _change(given: list[Any], kwargs: dict[str, Any], names: list[str], name: str, how: Callable[[Any], Any]) -> None:
    """Replaces one argument where it was given, so that what was positional stays so (checkpoints look for tensors
    there)."""
    at = names.index(name) if name in names else len(given)
    if at < len(given):
        given[at] = how(given[at])
    elif name in kwargs or name == "attention_mask":  # without a mask the rows would see each other
        kwargs[name] = how(kwargs.get(name))


def _packed(layout: Layout, state: Tensor) -> Tensor:
    return layout.pack(state) if tuple(state.shape[:2]) == layout.shape else state


def _whole(layout: Layout, state: Tensor) -> Tensor:
    return layout.unpack(state) if tuple(state.shape[:2]) == (1, layout.pieces) else state


def _positions(layout: Layout, positions: Any) -> Any:
    """Numbers or rotations of the padded positions, (B or 1, T, ...), for the line's; pairs of them stay pairs."""
    if isinstance(positions, tuple):
        return tuple(_positions(layout, part) for part in positions)
    return None if positions is None else layout.packed_once(positions)
