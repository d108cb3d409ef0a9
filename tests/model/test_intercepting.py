"""Interceptors stand before a module's forward, several at once, and leave in any order."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from petune.model.intercepting import intercepting


def adding(amount: float) -> Any:
    """Adds to what the module makes."""
    return lambda _, forward: lambda x: forward(x) + amount


def test_they_leave_in_any_order() -> None:
    """Of two, the first to come may be the first to leave: the other goes on, and in the end no trace is left."""
    module, x = nn.Identity(), torch.zeros(1)
    first, second = ExitStack(), ExitStack()
    first.enter_context(intercepting([module], adding(1)))
    second.enter_context(intercepting([module], adding(10)))
    assert module(x) == 11
    first.close()
    assert module(x) == 10
    second.close()
    assert module(x) == 0 and "forward" not in module.__dict__


def test_a_forward_of_yours_is_put_back() -> None:
    """What stood before the module's forward beforehand stands there again."""
    module, x = nn.Identity(), torch.zeros(1)
    module.forward = lambda x: x + 100  # type: ignore[method-assign]
    mine = module.forward
    with intercepting([module], adding(1)), intercepting([module], adding(10)):
        assert module(x) == 111
    assert module.__dict__["forward"] is mine
