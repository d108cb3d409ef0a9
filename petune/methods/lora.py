"""LoRA: a low-rank change beside a frozen linear map.

    y = W x + b + s · B A x        A: (R, d_in) random,  B: (d_out, R) zero,  s = alpha / R  (rsLoRA: alpha / sqrt(R))

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685;
the square root is Kalajdzievski 2023, "A Rank Stabilization Scaling Factor", arXiv:2312.03732.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar

import torch
from torch import Tensor, nn

from petune.knobs import check, knobs
from petune.methods._dropping import dropped_share, narrowed
from petune.methods._stacking import Own, add_product
from petune.methods.base import AdapterLayer, Method, Site

LINEAR_ROLES = ("query", "key", "value", "attention_output", "ffn_input", "ffn_output")
"""Every linear map of a block."""


class LoRALayer(AdapterLayer):
    """One low-rank pair: `lora_A` (R, d_in), `lora_B` (d_out, R)."""

    inner: ClassVar[Mapping[str, int | None]] = {"lora_A": 0, "lora_B": 1}

    def __init__(self, d_in: int, d_out: int, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(rank, d_in))
        self.lora_B = nn.Parameter(torch.zeros(d_out, rank))
        if rank:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (..., d_in), y (..., d_out) -> (..., d_out)."""
        if not self.lora_A.shape[0]:
            return y
        return self.routed(self.own(dropped_share(self.dropout)), x, y)

    @staticmethod
    def routed(own: Own, x: Tensor, y: Tensor) -> Tensor:
        """x (B, T, d_in), y (B, T, d_out) -> (B, T, d_out); `lora_A` (R, d_in), `lora_B` (R, d_out) or one per row."""
        return add_product(y, narrowed(x, own["lora_A"], own.dropout), own["lora_B"], own.scale)

    def delta(self) -> Tensor:
        """s · B A, (d_out, d_in), in float32."""
        return (self.lora_B.float() @ self.lora_A.float()) * self.scale


@knobs
class LoRA(Method):
    """A low-rank change beside frozen linear maps.

    Args:
        rank: R, the inner width.
        alpha: numerator of the scale; None means "the rank of the site", so that the scale is 1.
        rslora: divide alpha by sqrt(R) in place of R.
        dropout: on the input of A, while training.
        targets: roles of the architecture table, by default every linear map of a block.
        ranks: site path -> rank where it differs from `rank`; 0 leaves a site without change.

    Examples:
        >>> LoRA(rank=16, targets=("query", "value"), top=4).roles()
        ('query', 'value')
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2106.09685"
    mergeable: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-4

    rank: int = 8
    alpha: float | None = 16.0
    rslora: bool = False
    dropout: float = 0.0
    targets: tuple[str, ...] = LINEAR_ROLES
    ranks: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.rank >= 1, "rank", self.rank, "at least 1")
        check(self.alpha is None or self.alpha > 0, "alpha", self.alpha, "positive, or None")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        check(all(r >= 0 for r in self.ranks.values()), "ranks", dict(self.ranks), "0 or more at each site")

    def roles(self) -> tuple[str, ...]:
        return self.targets

    def named_sites(self) -> tuple[str, ...]:
        return tuple(self.ranks)

    def layer(self, site: Site) -> LoRALayer:
        rank = self.ranks.get(site.path, self.rank)
        return LoRALayer(site.d_in, site.d_out, rank, self.scale(rank), self.dropout)

    def scale(self, rank: int) -> float:
        """s for a site of this rank.

        Examples:
            >>> LoRA(alpha=16).scale(8)
            2.0
        """
        alpha = float(rank) if self.alpha is None else self.alpha
        return alpha / (math.sqrt(rank) if self.rslora else rank) if rank else 1.0
