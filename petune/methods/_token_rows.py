"""Rows of an adapter's own in front of the backbone's table of pieces: markers, and soft prompts.

    e_t = R[first - id_t]   where first - N < id_t <= first         else the backbone's own e_t

The pieces that stand for them are negative numbers, which no vocabulary has: they need no room in the table, so the
backbone is never resized, and a row that reaches a call without its adapter is an error of the table itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petune.methods.base import AdapterLayer

SPREAD = 0.1
"""Of fresh rows around the mean of the backbone's table, in standard deviations of its entries."""


class TokenRows(AdapterLayer):
    """`rows` (N, D), which stand at pieces `first`, `first - 1`, ..."""

    def __init__(self, rows: Tensor, first: int) -> None:
        super().__init__()
        self.first = first
        self.rows = nn.Parameter(rows)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x pieces (B, T), y what the backbone's table gave for them (B, T, D) -> (B, T, D) in the type of y."""
        places = self.stands_at(x)
        own = nn.functional.embedding(torch.where(places, self.first - x, 0), self.rows)
        return torch.where(places.unsqueeze(-1), own.to(y.dtype), y)

    def stands_at(self, x: Tensor) -> Tensor:
        """Which pieces stand for its rows, (B, T) bool."""
        return (x <= self.first) & (x > self.first - len(self.rows))

    def hidden(self, x: Tensor) -> Tensor:
        """Pieces as the backbone's table may be asked for them: 0 in place of its own ones."""
        return x.masked_fill(self.stands_at(x), 0)


@torch.no_grad()
def around_the_mean(table: Tensor, count: int) -> Tensor:
    """Fresh rows (N, D), float32, near the mean of a table (V, D).

    Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models": a new piece that begins at the mean
    leaves what the model makes of the others nearly as it is.
    """
    wide = table.float()
    return wide.mean(0) + SPREAD * wide.std() * torch.randn(count, table.shape[1], device=table.device)
