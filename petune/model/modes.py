"""Train and eval mode, borrowed and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
    """Everything inside is in eval mode: no dropout answers a question."""
    with modes_kept(*modules):
        for module in modules:
            module.eval()
        yield
