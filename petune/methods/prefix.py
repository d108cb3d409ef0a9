"""Prefix tuning: learnt keys and values in front of every attention's own.

    Attention(Q, [P_K ; K], [P_V ; V])        P_K, P_V: (P, H, K) per attention

The prefix is joined after positions were applied, so no position shifts, encoders and decoders alike, with or
without a key-value cache. A prefix takes attention away from the real tokens, so a fresh one is NOT the identity;
its values start at zero.

Li and Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv:2101.00190.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from petune.knobs import check, knobs
from petune.methods._dropping import dropped_share
from petune.methods._stacking import Own
from petune.methods.base import AdapterLayer, Method, Site


def _in_front(prefix: Tensor, there: Tensor) -> Tensor:
    """prefix (P, H, K) or (B, P, H, K), there (B, H, T, K) -> (B, H, P + T, K)."""
    rows = prefix.to(there.dtype).transpose(-3, -2).expand(there.shape[0], -1, -1, -1)
    return torch.cat([rows, there], dim=2)


class PrefixLayer(AdapterLayer):
    """`keys` and `values`, (P, H, K) each."""

    inner: ClassVar[Mapping[str, int | None]] = {"keys": 0, "values": 0}

    def __init__(self, prefix: int, heads: int, head_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.keys = nn.Parameter(torch.randn(prefix, heads, head_size) * 0.5)
        self.values = nn.Parameter(torch.zeros(prefix, heads, head_size))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x keys, y values, (B, H, T, K) -> (B, H, P + T, K) each."""
        return self.routed(self.own(dropped_share(self.dropout)), x, y)

    @staticmethod
    def routed(own: Own, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x keys, y values, (B, H, T, K) -> (B, H, P + T, K) each. Padded positions are for the mask to hide."""
        values = nn.functional.dropout(own["values"], own.dropout) if own.dropout else own["values"]
        return _in_front(own["keys"], x), _in_front(values, y)


class ReparametrisedPrefixLayer(AdapterLayer):
    """A prefix made by a small network from an embedding (P, E); only its output is saved."""

    def __init__(self, prefix: int, heads: int, head_size: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = (prefix, heads, head_size)
        self.dropout_share = dropout
        self.embedding = nn.Parameter(torch.randn(prefix, hidden))
        self.to_keys = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, heads * head_size))
        last = nn.Linear(hidden, heads * head_size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.to_values = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), last)

    def made(self) -> tuple[Tensor, Tensor]:
        """Keys and values, (P, H, K) each."""
        return self.to_keys(self.embedding).view(self.shape), self.to_values(self.embedding).view(self.shape)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x keys, y values, (B, H, T, K) -> (B, H, P + T, K) each."""
        keys, values = self.made()
        dropped = nn.functional.dropout(values, self.dropout_share, self.training)
        return PrefixLayer.routed(Own({"keys": keys, "values": dropped}), x, y)

    def tensors(self) -> dict[str, Tensor]:
        return self.folded().tensors()

    def folded(self) -> PrefixLayer:
        """The direct prefix that the network makes."""
        plain = PrefixLayer(*self.shape, dropout=self.dropout_share).to(self.embedding.device)
        with torch.no_grad():
            for name, tensor in zip(("keys", "values"), self.made(), strict=True):
                getattr(plain, name).copy_(tensor)
        return plain.train(self.training)


@knobs
class Prefix(Method):
    """Learnt keys and values in front of every attention's own. There is no weight change to merge.

    Args:
        length: P, prefix positions per attention.
        reparametrise: width of the network that makes the prefix while training; None: it is learnt directly.
        dropout: on the prefix values, while training.

    Examples:
        >>> Prefix(length=8, top=2).roles()
        ('attention',)
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2101.00190"
    identity_at_start: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 3e-2

    length: int = 16
    reparametrise: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.length >= 1, "length", self.length, "at least 1")
        check(self.reparametrise is None or self.reparametrise >= 1, "reparametrise", self.reparametrise, "positive")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")

    def roles(self) -> tuple[str, ...]:
        return ("attention",)

    def layer(self, site: Site) -> AdapterLayer:
        if self.reparametrise is None:
            return PrefixLayer(self.length, site.heads, site.head_size, self.dropout)
        return ReparametrisedPrefixLayer(self.length, site.heads, site.head_size, self.reparametrise, self.dropout)

    def folded(self, layers: object) -> Prefix:
        """What is kept is always the direct prefix."""
        return Prefix(length=self.length, dropout=self.dropout, layers=self.layers, top=self.top, modules=self.modules)
