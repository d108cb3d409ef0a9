"""The last block where the head reads the first position alone: BERT's kind of classifier.

    q (B, 1, D) of the first position,  k and v (B, T, D) of all  ->  attention, feed-forward (B, 1, D)

Nobody reads what the last block would make of the other positions, so no gradient reaches them either: losses and
gradients are the same, and the block costs its keys and values, 4 d^2 of 24 d^2 products a position.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from petune.model.intercepting import Forward, intercepting, of_calls, saying
from petune.model.taps import foreign_hooks
from petune.model.unpadding import whole

if TYPE_CHECKING:
    from petune.model.learner import Learner

KINDS = ("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer")
"""Blocks that are built alike, up to their names."""
AGREE = 1e-5
"""How far trimmed logits may be from whole ones, over the largest, in float32; a hundredth in other types."""

_running: ContextVar[bool] = of_calls("petune_trimmed", False)


@contextmanager
def trimming(trims: bool) -> Iterator[None]:
    """Calls of this thread compute the first position of the last block alone, if `trims`."""
    with saying(_running, trims):
        yield


@contextmanager
def listening(learner: Learner) -> Iterator[None]:
    """Makes `trimming` possible on a learner's backbone."""
    blocks = learner.live_blocks()
    with intercepting(blocks[-1:], lambda _, forward: _Interceptor(blocks[-1], forward).forward):
        yield


def might_trim(learner: Learner) -> bool:
    """Whether the last block is of a kind that can be trimmed, and is live."""
    blocks = learner.live_blocks()
    if not blocks:
        return False
    config = learner.adapter.shell.backbone.model.config
    plain = not getattr(config, "chunk_size_feed_forward", 0) and not getattr(config, "is_decoder", False)
    if type(blocks[-1]).__name__ not in KINDS or learner.method.residence == "sole" or not plain:
        return False
    return not any(foreign_hooks(module) for module in blocks[-1].modules())  # a hook of yours sees every position


@torch.no_grad()
def trims_alike(learner: Learner, inputs: Mapping[str, Tensor]) -> bool:
    """Whether this batch has the same logits when the last block is trimmed: the head reads the first position alone.

    Args:
        inputs: rows of other content than the padding; the learner listens and is in eval mode.
    """
    learner.trims = False
    whole = learner(**inputs)
    learner.trims = True
    try:
        short = learner(**inputs)
    except (RuntimeError, IndexError, ValueError):  # a head that reads every position finds only one
        return False
    finally:
        learner.trims = False
    if short.shape != whole.shape:
        return False
    most = AGREE if whole.dtype in (torch.float32, torch.float64) else 1e-2
    return bool((whole - short).abs().max() <= most * whole.abs().max().clamp_min(1e-12))


class _Interceptor:
    """Stands before the last block. Its `forward` is a bound method, so that a deep copy re-binds it."""

    def __init__(self, block: nn.Module, inner: Forward) -> None:
        self._block, self._inner = block, inner

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        """(B, T, D) -> (B, 1, D) in a call that is trimmed."""
        if not _running.get():
            return self._inner(hidden_states, attention_mask, *args, **kwargs)
        block: Any = self._block
        if block.training and block.gradient_checkpointing:
            return block._gradient_checkpointing_func(self._first, hidden_states, attention_mask)
        return self._first(hidden_states, attention_mask)

    def _first(self, hidden_states: Tensor, attention_mask: Any) -> Tensor:
        """The output at the first position, (B, 1, D)."""
        block: Any = self._block
        states = whole(hidden_states)
        attended = block.attention.output(_attended(block.attention.self, states, attention_mask), states[:, :1])
        made: Tensor = block.feed_forward_chunk(attended)
        return made


def _attended(attention: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """What the first position attends to, (B, 1, D), through the function that the backbone's attention would call."""
    heads = (-1, attention.attention_head_size)
    query = attention.query(states[:, :1]).unflatten(-1, heads).transpose(1, 2)
    key = attention.key(states).unflatten(-1, heads).transpose(1, 2)
    value = attention.value(states).unflatten(-1, heads).transpose(1, 2)
    eager = sys.modules[type(attention).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager)
    output, _ = attend(
        attention,
        query,
        key,
        value,
        None if mask is None else mask[:, :, :1],
        dropout=attention.dropout.p if attention.training else 0.0,
        scaling=attention.scaling,
    )
    return output.flatten(2)
