"""Low-rank algebra: a sum of products B A is cut to any rank without ever being multiplied out.

    Σ wᵢ Bᵢ Aᵢ = [w₁ B₁ ... wₙ Bₙ] [A₁; ...; Aₙ] = B A       B: (d_out, K),  A: (K, d_in),  K = R₁ + ... + Rₙ
    B = Q_b R_b,   Aᵀ = Q_a R_a                              two thin QRs
    R_b R_aᵀ = U S Vᵀ                                        the core, (K, K) whatever the widths are
    B A = (Q_b U) S (Q_a V)ᵀ                                 so this is the SVD of the sum

Of all matrices of rank R the sum of the R leading terms is nearest in the Frobenius norm, and the root of the sum of
the other squared singular values is how far it is off (Eckart and Young 1936).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = torch.finfo(torch.float32).eps
"""Singular values below this share of what was summed are zero, as far as float32 can tell."""


class Factors(NamedTuple):
    """A product B A: `b` (d_out, R) with every scale in it, `a` (R, d_in)."""

    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        """R."""
        return self.a.shape[0]


class Cut(NamedTuple):
    """Factors that stand for a matrix, and what they lack of it.

    Args:
        lost: squared Frobenius norm of the matrix minus the product.
        whole: squared Frobenius norm of the matrix.
    """

    factors: Factors
    lost: float
    whole: float


def stacked(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Σ wᵢ Bᵢ Aᵢ as one product, exactly; its rank is the sum of the ranks.

    Example:
        >>> one, two = (Factors(torch.ones(3, r), torch.ones(r, 2)) for r in (1, 2))
        >>> both = stacked([one, two], [2.0, 0.5])
        >>> both.rank, (both.b @ both.a)[0].tolist()
        (3, [3.0, 3.0])
    """
    b = torch.cat([part.b * weight for part, weight in zip(parts, weights, strict=True)], dim=1)
    return Factors(b, torch.cat([part.a for part in parts]))


def truncated(parts: Sequence[Factors], weights: Sequence[float], rank: int | None) -> Cut:
    """The best product of at most `rank` for Σ wᵢ Bᵢ Aᵢ, with √S in either factor.

    Args:
        rank: None cuts nothing but what is zero up to float32, and a sum of full rank is handed back stacked as it is.
    """
    both = stacked(parts, weights)
    left, right = _ThinQR.of(both.b), _ThinQR.of(both.a.T)
    u, s, v = torch.linalg.svd(left.r @ right.r.T, full_matrices=False)
    # Measured by the summands, not by the sum: where they cancel out, what is left over is rounding.
    size = float(torch.linalg.vector_norm(both.b, dim=0) @ torch.linalg.vector_norm(both.a, dim=1))
    squares = [value * value for value in s.tolist()]
    true_rank = sum(square > (ROUNDING * size) ** 2 for square in squares)
    if not true_rank:
        return Cut(Factors(both.b[:, :0], both.a[:0]), 0.0, 0.0)
    kept = true_rank if rank is None else min(rank, true_rank)
    if rank is None and kept == both.rank:
        return Cut(both, 0.0, sum(squares))
    root = s[:kept].sqrt()
    made = Factors(left.times(u[:, :kept] * root), right.times(v[:kept].T * root).T)
    return Cut(made, sum(squares[kept:]), sum(squares))


class _ThinQR(NamedTuple):
    """A QR whose Q stays in reflectors: it is needed for a few columns only, and forming it is half of the work."""

    reflectors: Tensor
    scales: Tensor
    r: Tensor

    @classmethod
    def of(cls, tall: Tensor) -> _ThinQR:
        """tall: (d, K)."""
        packed, scales = torch.geqrf(tall)
        return cls(packed[:, : len(scales)], scales, packed[: len(scales)].triu())

    def times(self, columns: Tensor) -> Tensor:
        """Q x columns: (min(d, K), R) -> (d, R)."""
        padded = columns.new_zeros(self.reflectors.shape[0], columns.shape[1])
        padded[: len(columns)] = columns
        return torch.ormqr(self.reflectors, self.scales, padded)
