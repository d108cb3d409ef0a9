"""Train and eval mode, borrowed and given back; several threads may borrow the same modules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_lock = threading.Lock()
_lent: dict[int, tuple[int, bool, nn.Module]] = {}
"""id of a module -> how many have borrowed it, the mode it was in, and the module."""


@contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Every module inside is in the mode it was in, when this ends."""
    before = [(inner, inner.training) for module in modules for inner in module.modules()]
    try:
        yield
    finally:
        for inner, training in before:
            inner.training = training


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Everything inside is in eval mode: no dropout answers a question. The last of several threads gives it back."""
    inside = list({id(inner): inner for module in modules for inner in module.modules()}.values())
    with _lock:
        for inner in inside:
            count, before, _ = _lent.get(id(inner), (0, inner.training, inner))
            _lent[id(inner)] = count + 1, before, inner
            inner.training = False
    try:
        yield
    finally:
        with _lock:
            for inner in inside:
                count, before, _ = _lent.pop(id(inner))
                if count > 1:
                    _lent[id(inner)] = count - 1, before, inner
                else:
                    inner.training = before
