"""Low-rank algebra: a sum of products B A is cut to any rank without ever being multiplied out.

    Σ wᵢ Bᵢ Aᵢ = [w₁ B₁ ... wₙ Bₙ] [A₁; ...; Aₙ] = B A       B: (d_out, K),  A: (K, d_in),  K = R₁ + ... + Rₙ
    B = Q R                                                  R: (K, K), from the Cholesky factor of Bᵀ B
    R (A Aᵀ) Rᵀ = U S² Uᵀ                                    the core, (K, K) whatever the widths are
    B A = (Q U) (Uᵀ R A)                                     Uᵀ R A has orthogonal rows of lengths S: this is the SVD

All of it is done for many sites of one shape at once: a decomposition of a small matrix costs more to ask for than to
make. Columns of B are brought to length 1 first, their lengths go into A. Where they are too nearly dependent for a
Cholesky factor, a Householder QR of those sites gives Q and R.

Of all matrices of rank R the sum of the R leading terms is nearest in the Frobenius norm, and the root of the sum of
the other squared singular values is how far it is off (Eckart and Young 1936).

Yamamoto, Nakatsukasa, Yanagisawa and Fukaya 2015, "Roundoff error analysis of the CholeskyQR2 algorithm": Q from a
Cholesky factor in float64 is orthogonal up to 1e-16 · cond(B)², so up to 1e-10 for what is not sent to Householder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = torch.finfo(torch.float32).eps
"""Singular values below this share of what was summed are zero, as far as float32 can tell."""
APART = 1e-3
"""How far a column of length 1 must be from the span of those before it, for a Cholesky factor to be trusted."""


class Factors(NamedTuple):
    """A product B A: `b` (d_out, R) with every scale in it, `a` (R, d_in). For many sites an axis stands in front."""

    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        """R."""
        return self.a.shape[-2]


class Cut(NamedTuple):
    """Factors that stand for a matrix, and what they lack of it.

    Args:
        lost: squared Frobenius norm of the matrix minus the product; 0 where they differ by rounding.
        whole: squared Frobenius norm of the matrix.
    """

    factors: Factors
    lost: float
    whole: float


def stacked(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Σ wᵢ Bᵢ Aᵢ as one product, exactly; its rank is the sum of the ranks.

    Examples:
        >>> one, two = (Factors(torch.ones(3, r), torch.ones(r, 2)) for r in (1, 2))
        >>> both = stacked([one, two], [2.0, 0.5])
        >>> both.rank, (both.b @ both.a)[0].tolist()
        (3, [3.0, 3.0])
    """
    b = torch.cat([part.b * weight for part, weight in zip(parts, weights, strict=True)], dim=-1)
    return Factors(b, torch.cat([part.a for part in parts], dim=-2))


def truncated(parts: Sequence[Factors], weights: Sequence[float], rank: int | None) -> Cut:
    """The best product of at most `rank` for Σ wᵢ Bᵢ Aᵢ: `all_truncated` of a single site."""
    both = stacked(parts, weights)
    return all_truncated(Factors(both.b.unsqueeze(0), both.a.unsqueeze(0)), rank)[0]


def all_truncated(sums: Factors, rank: int | None) -> list[Cut]:
    """For each of N products the best one of at most `rank`, with √S in either factor.

    Args:
        sums: `b` (N, d_out, K), `a` (N, K, d_in), float64.
        rank: None cuts nothing but what is zero up to float32, and a product of full rank is handed back as it is.
    """
    inner = sums.b.mT @ sums.b
    lengths = inner.diagonal(dim1=-2, dim2=-1).sqrt()
    units = torch.where(lengths > 0, lengths, 1.0)
    r, failed = torch.linalg.cholesky_ex(inner / _outer(units), upper=True)
    sure = (failed == 0) & (r.diagonal(dim1=-2, dim2=-1).amin(-1) > APART)
    if sure.all():
        return _cut(sums, lengths, _Basis(None, r, sums.b, units), rank)
    cuts: dict[int, Cut] = {}
    for which, trusted in ((sure, True), (~sure, False)):
        if not which.any():
            continue
        some, each = Factors(sums.b[which], sums.a[which]), units[which]
        q, upper = (None, r[which]) if trusted else torch.linalg.qr(some.b / each.unsqueeze(-2))
        found = _cut(some, lengths[which], _Basis(q, upper, some.b, each), rank)
        cuts.update(zip(which.nonzero().flatten().tolist(), found, strict=True))
    return [cuts[site] for site in range(len(sure))]


class _Basis(NamedTuple):
    """B with its columns divided by their lengths, as Q R.

    Args:
        q: (N, d_out, K'); None: Q is B R⁻¹, which is needed for a few columns only.
        r: (N, K', K), upper triangular.
        b: (N, d_out, K), as it was given.
        units: (N, K), the lengths of its columns; 1 for a column of zeros.
    """

    q: Tensor | None
    r: Tensor
    b: Tensor
    units: Tensor

    def times(self, columns: Tensor) -> Tensor:
        """Q x columns: (N, K', R) -> (N, d_out, R)."""
        if self.q is not None:
            return self.q @ columns
        return self.b @ (torch.linalg.solve_triangular(self.r, columns, upper=True) / self.units.unsqueeze(-1))


def _cut(sums: Factors, lengths: Tensor, basis: _Basis, rank: int | None) -> list[Cut]:
    """`all_truncated`, with B taken apart. `lengths` (N, K) of its columns."""
    outer = sums.a @ sums.a.mT
    # Measured by the summands, not by the sum: where they cancel out, what is left over is rounding.
    sizes = (lengths * outer.diagonal(dim1=-2, dim2=-1).sqrt()).sum(-1, keepdim=True)
    squares, u = torch.linalg.eigh(basis.r @ (outer * _outer(basis.units)) @ basis.r.mT)
    squares, u = squares.flip(-1).clamp_min(0.0), u.flip(-1)  # the largest first; below zero is rounding
    ranks = (squares > (ROUNDING * sizes).square()).sum(-1).tolist()
    kept = [true if rank is None else min(rank, true) for true in ranks]
    whole = [rank is None and true == sums.rank for true in ranks]
    most = max((count for count, full in zip(kept, whole, strict=True) if not full), default=0)
    u, root = u[..., :most], squares[:, None, :most].pow(0.25)
    root = torch.where(root > 0, root, 1.0)
    b = basis.times(u * root)
    a = (basis.units.unsqueeze(-1) * (basis.r.mT @ (u / root))).mT @ sums.a
    cuts = []
    for site, found in enumerate(squares.tolist()):
        true, count = ranks[site], kept[site]
        made = (sums.b[site], sums.a[site]) if whole[site] else (b[site, :, :count], a[site, :count])
        cuts.append(Cut(Factors(*made), sum(found[count:true]), sum(found) if true else 0.0))
    return cuts


def _outer(values: Tensor) -> Tensor:
    """(N, K) -> (N, K, K), every product of two."""
    return values.unsqueeze(-1) * values.unsqueeze(-2)
