"""At every site the sum of what acts there, cut to its rank: sites of one shape together, pruned ones one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from petune.methods.base import AdapterLayer
from petune.methods.lora import LoRALayer
from petune.model.combining.compressing import compressed
from petune.model.combining.lowrank import Cut, Factors, all_truncated
from petune.model.combining.ways import Recipe, multiplied_out

EXACT = ("linear", "task_arithmetic")
"""Ways that cut nothing unless a rank is given."""
TOGETHER = 1 << 26
"""Bytes of the factors of those sites that are cut in one go."""


class Change(NamedTuple):
    """One adapter's change scale · B A at a site, as it is kept: `b` (d_out, R), `a` (R, d_in)."""

    b: Tensor
    a: Tensor
    scale: float

    @classmethod
    def of(cls, layer: AdapterLayer) -> Change:
        """A layer's; one that knows no factors is multiplied by the identity."""
        plain = layer.folded()
        if isinstance(plain, LoRALayer):
            return cls(plain.lora_B, plain.lora_A, plain.scale)
        change = plain.delta()
        d_out, d_in = change.shape
        one = torch.eye(min(d_out, d_in), dtype=change.dtype, device=change.device)
        return cls(change, one, 1.0) if d_in <= d_out else cls(one, change, 1.0)

    @property
    def rank(self) -> int:
        """R."""
        return self.a.shape[0]


class Sum(NamedTuple):
    """What acts at a site: the changes of rank above 0, and the weight of each.

    Args:
        shape: (d_out, d_in).
    """

    parts: list[Change]
    weights: list[float]
    shape: tuple[int, int]

    @property
    def kind(self) -> Hashable:
        """Sites of one kind are cut together."""
        return self.shape, tuple(part.rank for part in self.parts)

    def cut_to(self, recipe: Recipe) -> int | None:
        """The rank that low-rank algebra cuts to; None: only what is zero goes."""
        return max(part.rank for part in self.parts) if recipe.how == "svd" and recipe.rank is None else recipe.rank


def cuts_of(sums: Mapping[str, Sum], recipe: Recipe, density: float) -> dict[str, Cut]:
    """Site path -> what becomes of its sum, in the order of the sites."""
    cuts: dict[str, Cut] = {}
    alike: dict[Hashable, list[str]] = {}
    for path, those in sums.items():
        if not those.parts:
            nothing = Factors(torch.zeros(those.shape[0], 0), torch.zeros(0, those.shape[1]))
            cuts[path] = Cut(nothing, 0.0, 0.0)
        # Where a single adapter acts there is no sum: its own factors are the result.
        elif recipe.how == "cat" or (recipe.how in EXACT and recipe.rank is None and len(those.parts) == 1):
            both = _alone(those)
            cuts[path] = Cut(both, 0.0, _squared_norm(both))
        elif recipe.way.prune == "none":
            alike.setdefault(those.kind, []).append(path)
        else:
            cuts[path] = _pruned(those, path, recipe, density)
    for paths in alike.values():
        for some in _portions(paths, sums[paths[0]]):
            cuts.update(zip(some, _truncated([sums[path] for path in some], recipe), strict=True))
    return {path: cuts[path] for path in sums}


def _truncated(sums: Sequence[Sum], recipe: Recipe) -> list[Cut]:
    """Sums of one kind, cut."""
    return all_truncated(_side_by_side(sums), sums[0].cut_to(recipe))


def _side_by_side(sums: Sequence[Sum]) -> Factors:
    """The sums of one kind as products, with scales and weights in B; `b` (N, d_out, K), `a` (N, K, d_in).

    Sums are made in float64 on the CPU: the factors are small.
    """
    (d_out, d_in), ranks = sums[0].shape, [part.rank for part in sums[0].parts]
    b, a = (torch.empty(len(sums), *shape, dtype=torch.float64) for shape in ((d_out, sum(ranks)), (sum(ranks), d_in)))
    for place, (left, right) in enumerate(zip(b.split(ranks, dim=2), a.split(ranks, dim=1), strict=True)):
        left.copy_(torch.stack([those.parts[place].b for those in sums]))
        right.copy_(torch.stack([those.parts[place].a for those in sums]))
    factors = [[part.scale * weight for part, weight in zip(*those[:2], strict=True)] for those in sums]
    columns = torch.tensor(factors, dtype=torch.float64).repeat_interleave(torch.tensor(ranks), dim=1)
    return Factors(b.mul_(columns.unsqueeze(1)), a)


def _alone(those: Sum) -> Factors:
    """The sum at one site as a product."""
    both = _side_by_side([those])
    return Factors(both.b[0], both.a[0])


def _portions(paths: list[str], like: Sum) -> Iterator[list[str]]:
    """Sites of one kind, as many at a time as fit into `TOGETHER`."""
    each = 8 * sum(like.shape) * sum(part.rank for part in like.parts)
    count = max(1, TOGETHER // each)
    return (paths[start : start + count] for start in range(0, len(paths), count))


def _pruned(those: Sum, path: str, recipe: Recipe, density: float) -> Cut:
    """A sum of pruned products, compressed."""
    generator = _generator(recipe.seed, path)
    parts = [_alone(Sum([part], [1.0], those.shape)) for part in those.parts]
    matrix = multiplied_out(parts, those.weights, recipe, density, generator)
    ranks = [part.rank for part in those.parts]
    return compressed(matrix, recipe.rank or max(ranks), sum(ranks), generator)


def _squared_norm(product: Factors) -> float:
    """‖B A‖², from two small matrices."""
    return float(((product.b.mT @ product.b) * (product.a @ product.a.mT)).sum().clamp_min(0.0))


def _generator(seed: int, path: str) -> torch.Generator:
    """A generator of this site's own, so that no other site changes what is drawn here."""
    drawn = hashlib.sha256(f"{seed} {path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(drawn[:8], "little"))
