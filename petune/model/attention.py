"""Prefixes through transformers' attention registry.

`petune_sdpa` and `petune_eager` are registered once. While a prefix is resident, the backbone's configurations name
them; they join the prefix to keys and values and call the original function. Without a prefix in the running call
they are that original function. The mask function is registered under the same name: without it, transformers makes
no mask at all and padding is attended silently.

A prefix is not compiled: a graph ends before it and another begins after it, unless the graph is known to serve only
calls in which no prefix acts.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from petune.errors import BackboneError
from petune.model.packed import Unpadded
from petune.model.prefixing import Prefixed, pad_front, prefixed, widened
from petune.model.routing import Frame, any_frame

KINDS = ("sdpa", "eager")


def _site(frame: Frame | None, module: nn.Module) -> str | None:
    """The path of this attention module where some resident has a prefix, in a call with adapters."""
    return frame.owner.attention.get(module) if frame is not None and frame.active else None  # type: ignore[attr-defined]


def _has_prefix(frame: Frame | None) -> bool:
    """Whether a prefix acts anywhere in the running call; other calls run as if no prefix were resident."""
    if frame is None or not frame.active:
        return False
    return frame.attends or any(frame.layers(path) for path in frame.owner.attention.values())  # type: ignore[attr-defined]


def has_prefix() -> bool:
    """Whether a prefix acts anywhere in the running call."""
    return _has_prefix(any_frame())


_bare: ContextVar[bool] = ContextVar("petune_bare_attention", default=False)


@contextmanager
def without_prefix() -> Iterator[None]:
    """Around compiled code that only calls without a prefix enter: whatever torch compiles here may rely on that."""
    token = _bare.set(True)
    try:
        yield
    finally:
        _bare.reset(token)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_bare() -> bool:
    """Asked while torch compiles; the answer is part of the graph."""
    return _bare.get()


def _original(kind: str, module: nn.Module) -> Callable[..., Any]:
    """The function that would run without petune; eager attention is each architecture's own."""
    if kind == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[kind]  # type: ignore[no-any-return]


def _rows(extra: Any, rows: Tensor | None) -> Any:
    """The rows of a tensor (None: all of them); a mask or bias that is shared by all rows stays whole."""
    return extra if extra is None or rows is None or extra.shape[0] == 1 else extra[rows]


def _make(kind: str) -> Callable[..., Any]:
    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        """query (B, H_q, T_q, K), key and value (B, H, T, K) -> ((B, T_q, H_q, K), weights or None)."""
        original, frame = _original(kind, module), any_frame()
        if isinstance(attention_mask, Unpadded):
            return attention_mask.attend(original, kind, module, query, key, value, kwargs)
        path = _site(frame, module)
        if frame is None or path is None:
            return original(module, query, key, value, attention_mask, **kwargs)
        frame.owner.refuse_while_merged("use an adapter")  # type: ignore[attr-defined]
        call = Call(original, module, query, key, value, attention_mask, kwargs)
        layers = frame.layers(path)
        if layers and layers[0][1] is None:
            return call.through(layers[0][0], None)
        served = frame.served(path)
        if not layers and served is None:
            return call.prefixed(prefixed(frame, path, key, value), None, kind)
        return _by_rows(call, frame, path, kind)

    aside = torch.compiler.disable(attend)

    def attention(module: nn.Module, *given: Any, **kwargs: Any) -> Any:
        """The same, also where torch traces it, which cannot see the running call."""
        if not torch.compiler.is_compiling():
            return attend(module, *given, **kwargs)
        return (_original(kind, module) if _is_bare() else aside)(module, *given, **kwargs)

    return attention


class Call(NamedTuple):
    """One attention, as the backbone asked for it."""

    original: Callable[..., Any]
    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    kwargs: dict[str, Any]

    def plain(self, rows: Tensor | None) -> Any:
        """Without a prefix."""
        return self._run(rows, _rows(self.key, rows), _rows(self.value, rows), _rows(self.mask, rows), 0)

    def through(self, layer: nn.Module, rows: Tensor | None) -> Any:
        """With the prefix of one layer."""
        key, value = layer(_rows(self.key, rows), _rows(self.value, rows))
        more = key.shape[2] - self.key.shape[2]
        return self._run(rows, key, value, pad_front(_rows(self.mask, rows), more), more)

    def prefixed(self, wide: Prefixed, rows: Tensor | None, kind: str) -> Any:
        """With every row's own prefix."""
        key, value = _rows(wide.key, rows), _rows(wide.value, rows)
        more, visible = wide.key.shape[2] - self.key.shape[2], wide.visible
        visible = visible if visible is None or rows is None else visible[rows]
        return self._run(rows, key, value, widened(_rows(self.mask, rows), more, visible, key, kind), more)

    def _run(self, rows: Tensor | None, key: Any, value: Any, mask: Tensor | None, more: int) -> Any:
        bias = pad_front(_rows(self.kwargs.get("position_bias"), rows), more)
        kwargs = self.kwargs if bias is None else {**self.kwargs, "position_bias": bias}
        return self.original(self.module, _rows(self.query, rows), key, value, mask, **kwargs)


def _by_rows(call: Call, frame: Frame, path: str, kind: str) -> Any:
    """Every row attends once: with its adapter's prefix, or as it would alone."""
    parts = [(rows, call.through(layer, rows)[0]) for layer, rows in frame.layers(path) if rows is not None]
    served = frame.served(path)
    if served is not None and len(served):
        wide = prefixed(frame, path, call.key, call.value)
        parts.append((served, call.prefixed(wide, served, kind)[0]))
    batch = len(call.key)
    if not parts:
        return call.plain(None)
    if sum(len(rows) for rows, _ in parts) < batch:
        among = torch.ones(batch, dtype=torch.bool, device=call.key.device)
        for rows, _ in parts:
            among = among.index_fill(0, rows, False)
        others = among.nonzero().flatten()
        parts.append((others, call.plain(others)[0]))
    dtype = parts[0][1].dtype
    order = torch.cat([rows for rows, _ in parts]).argsort()
    return torch.cat([output.to(dtype) for _, output in parts]).index_select(0, order), None


def _make_mask(kind: str) -> Callable[..., Any]:
    @torch.compiler.disable  # type: ignore[untyped-decorator]
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
"""Backbone -> how many prefixes and fits hold the switch; two tuners may share one backbone, in two threads."""
_switching = threading.Lock()


def switch_on(backbone: nn.Module) -> None:
    """Points a backbone's configurations at petune's attention: for a prefix, or for rows without their padding.

    Raises:
        BackboneError: for an attention implementation that cannot take a prefix.
    """
    with _switching:
        _count_up(backbone)


def _count_up(backbone: nn.Module) -> None:
    if not _switched.get(backbone):
        kinds = kinds_of(backbone)
        if not kinds <= set(KINDS):
            raise BackboneError(
                f"A prefix cannot act under the attention {', '.join(sorted(map(str, kinds - set(KINDS))))}.",
                expected="It needs 'sdpa' or 'eager'.",
                fix="Load the backbone with attn_implementation='sdpa'.",
            )
        # A deep copy of a switched backbone is not counted; it holds the one switch that it was copied with.
        _switched[backbone] = sum(_is_switched(config) for config in _configs(backbone)[:1])
        for config in _configs(backbone):
            if not _is_switched(config):
                config._attn_implementation = f"petune_{config._attn_implementation}"
    _switched[backbone] += 1


def _is_switched(config: PretrainedConfig) -> bool:
    return str(config._attn_implementation).startswith("petune_")


def switch_off(backbone: nn.Module) -> None:
    """Puts the attention setting back, once nobody needs petune's any more."""
    with _switching:
        _switched[backbone] = _switched.get(backbone, 1) - 1  # a copy holds one, as above
        if not _switched[backbone]:
            restore_setting(backbone)


def kinds_of(model: nn.Module) -> set[str]:
    """The attention implementations that a model names, petune's as the ones that they stand before."""
    return {str(config._attn_implementation).removeprefix("petune_") for config in _configs(model)}


def restore_setting(model: nn.Module) -> None:
    """Puts the attention setting of a model back to what it was before any prefix."""
    for config in _configs(model):
        config._attn_implementation = str(config._attn_implementation).removeprefix("petune_")


def _configs(backbone: nn.Module) -> list[PretrainedConfig]:
    """Every configuration object in a backbone, once (T5's stacks have their own)."""
    found = (getattr(module, "config", None) for module in backbone.modules())
    return list({id(config): config for config in found if isinstance(config, PretrainedConfig)}.values())
