"""`torch.compile` while an adapter learns: its layers are traced together with the blocks that they act in.

Compiled code that serves asks at run time who acts (see `opaque`), and has no gradient. Who learns is known beforehand:
for as long as it does, each tap is told the one layer that learns there, and traced code calls that layer outright, so
that a block with its layers is a single graph. Whether a call is the learner's own is asked before compiled code is
entered. Any other call runs as it would without: evaluations, joint forwards, prefixes, packed batches, and blocks
that are recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache

from petune.model import attention
from petune.model.compiling import GRAPHS, _block, _described
from petune.model.packed import Unpadded
from petune.model.routing import any_frame
from petune.model.taps import Changes, Tap

if TYPE_CHECKING:
    from petune.model.adapter import Adapter


@contextmanager
def compiled_learning(
    taps: Mapping[str, Tap], adapter: Adapter, blocks: Sequence[nn.Module], **options: Any
) -> Iterator[None]:
    """Inside, blocks run compiled wherever this adapter alone acts and gradients are asked for.

    Of several adapters that learn at once the first one has the compiled code.

    Args:
        taps: site path -> tap, of the bank where the adapter is resident.
        blocks: those at or above the adapter's lowest site.
        options: those of `torch.compile`; `fullgraph` is True unless told otherwise.
    """
    own = {path: layer for path, layer in adapter.body.layers.items() if path in taps}
    if any(taps[path].learning is not None for path in own):
        yield
        return
    compiled = torch.compile(
        _block, **{"fullgraph": True, "recompile_limit": GRAPHS, "isolate_recompiles": True, **options}
    )
    before = [(block, block._compiled_call_impl) for block in blocks]
    for path, layer in own.items():
        taps[path].learning = layer
    for block, plain in before:
        block._compiled_call_impl = CompiledLearning(block, compiled, adapter, plain)  # type: ignore[assignment]
    try:
        yield
    finally:
        for path in own:
            taps[path].learning = None
        for block, plain in before:
            block._compiled_call_impl = plain


class CompiledLearning:
    """What a call of a block goes through while an adapter learns. torch drops it when a block is copied or pickled.

    Args:
        plain: what calls went through before, and now those go through for which there is no compiled code.
    """

    def __init__(
        self, block: nn.Module, compiled: Callable[..., Any], adapter: Adapter, plain: Callable[..., Any] | None
    ) -> None:
        self._block, self._compiled, self._adapter = block, compiled, adapter
        self._plain = block._call_impl if plain is None else plain
        self._taps, self._changes = "", -1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not self._learns(args, kwargs):
            return self._plain(*args, **kwargs)
        if self._changes != (changes := Changes.number):
            self._taps, self._changes = _described(self._block), changes
        with attention.without_prefix():
            return self._compiled(self._block, self._taps, args, kwargs)

    def _learns(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this is a call of the learner alone, in the form that was traced."""
        if not torch.is_grad_enabled() or self._block._forward_hooks or self._block._forward_pre_hooks:
            return False
        if "forward" in self._block.__dict__ or getattr(self._block, "gradient_checkpointing", False):
            return False  # a fit listens to its calls, or recomputes them
        frame = any_frame()
        if frame is None or frame.per_row or len(frame.live) != 1 or frame.live[0] is not self._adapter:
            return False
        # A packed call tells the attention its rows in place of a mask; a cache belongs to what is being written.
        if any(isinstance(given, Unpadded | Cache) for given in (*args, *kwargs.values())):
            return False
        return not attention.has_prefix()
