"""A full matrix to low rank, without an SVD of its size.

The leading singular vectors are found by subspace iteration: a random block of `width` columns is multiplied by the
matrix and its transpose a few times, with a QR in between, and only the block is decomposed.

Halko, Martinsson and Tropp 2011, "Finding Structure with Randomness", arXiv:0909.4061, algorithm 4.4 and section 5.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from petune.model.combining.lowrank import Cut, Factors

SPARE = 8
"""Columns of the block beyond those that carry something."""
ROUNDS = 4
"""Multiplications by the matrix and its transpose."""
NOTHING = 1e-6
"""Singular values below this share of the largest are rounding, in float32."""


def compressed(matrix: Tensor, rank: int, width: int, generator: torch.Generator) -> Cut:
    """A product of at most `rank`, nearly as close to the matrix as any can be, and its true distance.

    Args:
        matrix: (d_out, d_in) float32; it is written over.
        rank: R.
        width: how many singular values may stand out: the ranks that went into the matrix, together.
        generator: draws the block.
    """
    whole = float(matrix.norm()) ** 2
    rank = min(rank, *matrix.shape)
    width = min(max(rank, width) + SPARE, *matrix.shape)
    block = torch.randn(matrix.shape[1], width, generator=generator)
    for _ in range(ROUNDS):
        block = torch.linalg.qr(matrix.T @ torch.linalg.qr(matrix @ block).Q).Q
    u, s, v = torch.linalg.svd(matrix @ block, full_matrices=False)
    kept = min(rank, int((s > NOTHING * s[0]).sum()))
    root = s[:kept].sqrt()
    made = Factors(u[:, :kept] * root, root.unsqueeze(1) * (v[:kept] @ block.T))
    return Cut(made, float(matrix.addmm_(made.b, made.a, alpha=-1.0).norm()) ** 2, whole)
