"""What a computation holds at its worst: the bytes of all tensors that it made and that are still there."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts inside of a `with`: forward, backward and what is recomputed. No clock and no allocator is asked, so the
    same computation gives the same figure.

    What an operator allocates and frees again within itself is not seen.

    Examples:
        >>> import torch
        >>> with LiveBytes() as live:
        ...     one = torch.ones(256) + torch.ones(256)
        >>> live.now, live.peak
        (1024, 3072)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, weakref.ref[UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and _key(leaf) not in before:
                self._note(leaf.untyped_storage())
        return made

    def _note(self, storage: UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._held:
            return

        def gone(_: Any) -> None:
            if self._held.pop(key, None) is not None:
                self.now -= size

        self._held[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
