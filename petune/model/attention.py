"""Prefixes through transformers' attention registry.

`petune_sdpa` and `petune_eager` are registered once. While a prefix is resident, the backbone's configurations name
them; they join the prefix to keys and values and call the original function. Without a prefix in the running call
they are that original function. The mask function is registered under the same name: without it, transformers makes
no mask at all and padding is attended silently.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from petune.errors import BackboneError
from petune.model.routing import Frame, any_frame

KINDS = ("sdpa", "eager")
Layers = list[tuple[nn.Module, Tensor | None]]


def _prefixes(frame: Frame | None, module: nn.Module) -> Layers:
    """The prefix layers that act at this attention module in the running call."""
    path = frame.owner.attention_path(module) if frame is not None and frame.groups else None  # type: ignore[attr-defined]
    return frame.layers(path) if frame is not None and path is not None else []


def _has_prefix(frame: Frame | None) -> bool:
    """Whether a prefix acts anywhere in the running call; other calls run as if no prefix were resident."""
    return frame is not None and any(frame.layers(path) for path in frame.owner.attention.values())  # type: ignore[attr-defined]


def _original(kind: str, module: nn.Module) -> Callable[..., Any]:
    """The function that would run without petune; eager attention is each architecture's own."""
    if kind == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[kind]  # type: ignore[no-any-return]


def _widen(extra: Tensor | None, length: int) -> Tensor | None:
    """`length` columns in front of a mask or bias (..., T_q, T_kv): always visible, and without a bias."""
    if extra is None:
        return None
    return F.pad(extra, (length, 0), value=True if extra.dtype == torch.bool else 0.0)


def _rows(extra: Tensor | None, rows: Tensor | None) -> Tensor | None:
    """The rows of a mask or bias; one that is shared by all rows stays whole."""
    return extra if extra is None or rows is None or extra.shape[0] == 1 else extra[rows]


def _make(kind: str) -> Callable[..., Any]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        """query (B, H_q, T_q, K), key and value (B, H, T, K) -> ((B, T_q, H_q, K), weights or None)."""
        original = _original(kind, module)

        def run(layer: nn.Module | None, rows: Tensor | None) -> Any:
            q, k, v = (part if rows is None else part[rows] for part in (query, key, value))
            mask, bias = _rows(attention_mask, rows), _rows(kwargs.get("position_bias"), rows)
            if layer is not None:
                k, v = layer(k, v)
                mask, bias = (_widen(extra, k.shape[2] - key.shape[2]) for extra in (mask, bias))
            extra = kwargs if bias is None else {**kwargs, "position_bias": bias}
            return original(module, q, k, v, mask, **extra)

        layers = _prefixes(any_frame(), module)
        if not layers:
            return original(module, query, key, value, attention_mask, **kwargs)
        if layers[0][1] is None:
            return run(layers[0][0], None)
        # Rows of several adapters: every row attends through its own prefix; the others through none.
        output, _ = original(module, query, key, value, attention_mask, **kwargs)
        for layer, rows in layers:
            assert rows is not None
            output = output.index_copy(0, rows, run(layer, rows)[0].to(output.dtype))
        return output, None

    return attention


def _make_mask(kind: str) -> Callable[..., Any]:
    def mask(*args: Any, **kwargs: Any) -> Any:
        """The original mask; a causal one is always made, because "no mask, is_causal" would misalign with a prefix."""
        if _has_prefix(any_frame()):
            kwargs["allow_is_causal_skip"] = False
        return ALL_MASK_ATTENTION_FUNCTIONS[kind](*args, **kwargs)

    return mask


for _kind in KINDS:
    AttentionInterface.register(f"petune_{_kind}", _make(_kind))
    AttentionMaskInterface.register(f"petune_{_kind}", _make_mask(_kind))


_switched: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Backbone -> how many prefixes hold the switch; two tuners may share one backbone."""


def switch_on(backbone: nn.Module) -> None:
    """Points a backbone's configurations at petune's attention.

    Raises:
        BackboneError: for an attention implementation that cannot take a prefix.
    """
    if not _switched.get(backbone):
        kinds = {config._attn_implementation for config in _configs(backbone)}
        if not kinds <= set(KINDS):
            raise BackboneError(
                f"A prefix cannot act under the attention {', '.join(sorted(map(str, kinds - set(KINDS))))}.",
                expected="It needs 'sdpa' or 'eager'.",
                fix="Load the backbone with attn_implementation='sdpa'.",
            )
        for config in _configs(backbone):
            config._attn_implementation = f"petune_{config._attn_implementation}"
    _switched[backbone] = _switched.get(backbone, 0) + 1


def switch_off(backbone: nn.Module) -> None:
    """Puts the attention setting back, once no prefix needs petune's any more."""
    # A deep copy of a switched backbone is not counted; it holds the one switch that it was copied with.
    _switched[backbone] = _switched.get(backbone, 1) - 1
    if not _switched[backbone]:
        restore_setting(backbone)


def restore_setting(model: nn.Module) -> None:
    """Puts the attention setting of a model back to what it was before any prefix."""
    for config in _configs(model):
        config._attn_implementation = str(config._attn_implementation).removeprefix("petune_")


def _configs(backbone: nn.Module) -> list[PretrainedConfig]:
    """Every configuration object in a backbone, once (T5's stacks have their own)."""
    found = (getattr(module, "config", None) for module in backbone.modules())
    return list({id(config): config for config in found if isinstance(config, PretrainedConfig)}.values())
