"""Bottleneck adapters: a small two-layer network on a block's residual branch.

    houlsby, pfeiffer:  y' = y + U act(D y)      after attention and feed-forward | after feed-forward only
    parallel:           y' = y + s · U act(D x)  beside the feed-forward: x enters it, y leaves it

D: (M, d_in) random, U: (d_out, M) zero, so a fresh adapter changes nothing.

Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00247;
He et al. 2021 (parallel), arXiv:2110.04366.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petune.knobs import check, knobs
from petune.methods._dropping import dropped_share, narrowed
from petune.methods._stacking import Own, add_product
from petune.methods.base import AdapterLayer, Method, Site

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
ROLES = {
    "houlsby": ("attention_output", "ffn_output"),
    "pfeiffer": ("ffn_output",),
    "parallel": ("ffn",),
}


class BottleneckLayer(AdapterLayer):
    """`down` (M, d_in), `up` (d_out, M), both with a bias; reads x (parallel) or y (in series)."""

    inner: ClassVar[Mapping[str, int | None]] = {"down.weight": 0, "down.bias": 0, "up.weight": 1, "up.bias": None}

    def __init__(
        self, d_in: int, d_out: int, width: int, activation: str, scale: float, dropout: float, parallel: bool
    ) -> None:
        super().__init__()
        self.scale, self.options = scale, (parallel, activation)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(d_in, width)
        self.up = nn.Linear(width, d_out)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (..., d_in), y (..., d_out) -> (..., d_out)."""
        return self.routed(self.own(dropped_share(self.dropout)), x, y)

    @staticmethod
    def routed(own: Own, x: Tensor, y: Tensor) -> Tensor:
        """x (B, T, d_in), y (B, T, d_out) -> (B, T, d_out); `down.weight` (M, d_in), `up.weight` (M, d_out)."""
        parallel, activation = own.options
        inner = narrowed(x if parallel else y, own["down.weight"])
        # A padded unit has no weights: whatever its activation, nothing of it goes up.
        inner = ACTIVATIONS[activation](inner + own["down.bias"].unsqueeze(-2).to(inner.dtype))
        inner = F.dropout(inner, own.dropout) if own.dropout else inner
        y = add_product(y, inner, own["up.weight"], own.scale)
        return y + (own["up.bias"].unsqueeze(-2) * own.scale).to(y.dtype)


@knobs
class Bottleneck(Method):
    """A small two-layer network on a block's residual branch. It is not linear, so it cannot be merged.

    Args:
        style: `"houlsby"`, `"pfeiffer"` or `"parallel"`.
        width: M, the inner width.
        activation: `"relu"`, `"gelu"`, `"silu"` or `"tanh"`.
        scale: s; He et al. use 4 for the parallel form.
        dropout: on the inner activation, while training.

    Examples:
        >>> Bottleneck(style="pfeiffer").roles()
        ('ffn_output',)
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1902.00751"
    learning_rate: ClassVar[float] = 1e-3

    style: Literal["houlsby", "pfeiffer", "parallel"] = "houlsby"
    width: int = 48
    activation: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    scale: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.width >= 1, "width", self.width, "at least 1")
        check(self.scale > 0, "scale", self.scale, "positive")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")

    def roles(self) -> tuple[str, ...]:
        return ROLES[self.style]

    def layer(self, site: Site) -> BottleneckLayer:
        parallel = self.style == "parallel"
        d_in = site.d_in if parallel else site.d_out
        return BottleneckLayer(d_in, site.d_out, self.width, self.activation, self.scale, self.dropout, parallel)
