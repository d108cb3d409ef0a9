"""The operator that compiled code calls at a site.

`torch.compile` turns a route into constants wherever it can see one, and cannot trace a context variable at all. It
does not look into an operator: the one here finds its site by a number and asks at run time who acts, in the frame of
the call. So one graph serves every route, and adapters come, go and are replaced without another compilation.

It writes into y, which torch then keeps apart from whoever else reads y. Where nobody acts it costs no copy. It has no
gradient: it serves only.
"""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor


class Acting(Protocol):
    """Whatever acts at a site: a tap."""

    def changed(self, x: Tensor, y: Tensor) -> Tensor | None:
        """x (..., d_in) entered the site, y (..., d_out) left it -> the new y, which may be y written over; None:
        nobody acts in the running call."""


_numbers = itertools.count()
_sites: WeakValueDictionary[int, Acting] = WeakValueDictionary()


def numbered(site: Acting) -> Tensor:
    """The number by which the operator finds a site, which is forgotten with the site.

    It is a tensor, because a graph takes a tensor as an input and would be made anew for every other plain number:
    this way all blocks of a backbone share one graph.
    """
    number = next(_numbers)
    _sites[number] = site
    with torch.inference_mode(False):
        return torch.tensor(number, dtype=torch.int64, device="cpu")


# A replayed CUDA graph would not ask again who acts, so torch is told to leave the operator out of them.
torch.library.define(
    "petune::act",
    "(Tensor x, Tensor(a!) y, Tensor number, ScalarType? autocast) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)


@torch.library.impl("petune::act", "CompositeExplicitAutograd")
def _act(x: Tensor, y: Tensor, number: Tensor, autocast: torch.dtype | None) -> None:
    """Writes into y what the adapters of the running call make of it.

    Args:
        autocast: the type of the autocast around the call; compiled code runs with autocast turned off.
    """
    site = _sites.get(int(number))
    if site is None:
        return
    with nullcontext() if autocast is None else torch.autocast(y.device.type, autocast):
        made = site.changed(x, y)
    if made is not None and made is not y:
        y.copy_(made)


@torch.library.register_fake("petune::act")  # type: ignore[untyped-decorator]
def _traced(x: Tensor, y: Tensor, number: Tensor, autocast: torch.dtype | None) -> None:
    """Nothing changes its shape."""


def act(x: Tensor, y: Tensor, number: Tensor) -> None:
    """The operator, under the autocast that is on here."""
    kind = y.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    torch.ops.petune.act(x, y, number, autocast)
