"""`torch.compile` of a backbone that serves: its blocks are compiled in place, once for all adapters.

Every shell shares the blocks, so calls with one adapter, with one per row and with none run the same code. Routes are
no part of it (see `opaque`). What is no plain serving runs as it would without compilation, block by block: training,
key-value caches, prefixes, and calls that ask transformers for inner states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache

from petune.errors import BackboneError
from petune.model import attention
from petune.model.families import FAMILIES
from petune.model.sites import block_list
from petune.model.taps import Changes, Tap

if TYPE_CHECKING:
    from petune.model.backbone import Backbone

GRAPHS = 64
"""How many graphs one backbone may have: kinds of blocks times sets of sites times kinds of shapes."""


def compile_blocks(backbone: Backbone, **options: Any) -> None:
    """Compiles every block of a backbone in place; `torch.compile` does the work when a block is first called.

    Args:
        options: those of `torch.compile`.

    Raises:
        BackboneError: a model without blocks.
    """
    blocks = list(_blocks(backbone))
    if not blocks:
        raise BackboneError(
            f"No blocks were found in a {backbone.model_type!r}.",
            expected="petune compiles the blocks of a backbone, which lie in an nn.ModuleList.",
            fix="Compile the model yourself, with torch.compile, once its adapters are there.",
        )
    # The blocks share their graphs; another backbone's do not count against their number.
    compiled = torch.compile(_block, **{"recompile_limit": GRAPHS, "isolate_recompiles": True, **options})
    for block in blocks:
        block._compiled_call_impl = Compiled(block, compiled)


def _blocks(backbone: Backbone) -> Iterator[nn.Module]:
    """The blocks of an architecture in the table; of others, what lies in their outermost lists."""
    family = FAMILIES.get(backbone.model_type)
    if family is not None:
        yield from (block for _, block in block_list(backbone.model, family))
        return
    inside: set[nn.Module] = set()
    for module in backbone.model.modules():  # those above come before those inside of them
        if isinstance(module, nn.ModuleList) and module not in inside:
            inside.update(module.modules())
            yield from module


def _block(block: nn.Module, taps: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is compiled. `taps` is compared as a string, so that other taps are other graphs."""
    assert taps is not None and len(taps) >= 0
    return block._call_impl(*args, **kwargs)


class Compiled:
    """What a call of a compiled block goes through. torch drops it when a block is copied or pickled."""

    def __init__(self, block: nn.Module, compiled: Callable[..., Any]) -> None:
        self._block, self._compiled = block, compiled
        self._taps, self._changes = "", -1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not self._serves(args, kwargs):
            return self._block._call_impl(*args, **kwargs)
        if self._changes != (changes := Changes.number):
            self._taps, self._changes = _described(self._block), changes
        with attention.without_prefix():
            return self._compiled(self._block, self._taps, args, kwargs)

    def _serves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this is a call for which there is compiled code."""
        block = self._block
        if torch.is_grad_enabled() or block.training:
            return False
        if "forward" in block.__dict__:  # a fit listens to its calls
            return False
        if block._forward_hooks or block._forward_pre_hooks:  # transformers collects inner states by hooks
            return False
        if any(isinstance(given, Cache) for given in (*args, *kwargs.values())):
            return False
        return not attention.has_prefix()


def _described(block: nn.Module) -> str:
    """Which modules of a block have taps; equal for blocks that can share a graph."""
    found = []
    for path, module in block.named_modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            kinds = [hook.__name__ for hook in list(hooks.values()) if isinstance(getattr(hook, "__self__", None), Tap)]
            found += [f"{path}:{kind}" for kind in kinds]
    return " ".join(found)
