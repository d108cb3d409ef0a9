"""The report on a combination: what went in, and how far the result is from what was asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SiteReport:
    """One site of a combination.

    Args:
        ranks: the rank of each adapter here, in their order; 0 where one does nothing.
        rank: of the result.
        relative_error: ‖sum - result‖ / ‖sum‖ in the Frobenius norm, without the rounding to float32.
        weight: ‖sum‖², its share in the error over all sites.
    """

    ranks: tuple[int, ...]
    rank: int
    relative_error: float
    weight: float


@dataclass(frozen=True)
class CombinationReport:
    """How adapters were merged into one. The error is that of compression: what pruning drops is meant to be gone.

    Args:
        how: the way of merging.
        adapters: the names that went in.
        weights: of the adapters.
        sites: site path -> ranks and error there.
        knobs: rank, density, majority_sign and seed, where they mattered.
        head: whose head it is; None: the weighted mean.

    Examples:
        >>> sites = {"q": SiteReport((2, 2), 2, 0.25, 1.0)}
        >>> print(CombinationReport("svd", ("a", "b"), (0.5, 0.5), sites, {"rank": 2}))
        svd of 0.5 · a + 0.5 · b (rank=2), mean head: 1 sites, relative error 0.25
        site  ranks  rank  relative error
        q     2 + 2     2            0.25
    """

    how: str
    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    sites: Mapping[str, SiteReport]
    knobs: Mapping[str, Any] = field(default_factory=dict)
    head: str | None = None

    @property
    def relative_error(self) -> float:
        """‖sum - result‖ / ‖sum‖ over all sites together."""
        whole = sum(site.weight for site in self.sites.values())
        lost = sum(site.weight * site.relative_error**2 for site in self.sites.values())
        return math.sqrt(lost / whole) if whole else 0.0

    def facts(self) -> dict[str, Any]:
        """The report as JSON values, as the manifest of a saved adapter keeps it."""
        sites = {path: {**vars(site), "ranks": list(site.ranks)} for path, site in self.sites.items()}
        plain = {"adapters": list(self.adapters), "weights": list(self.weights), "knobs": dict(self.knobs)}
        return {**vars(self), **plain, "sites": sites, "relative_error": self.relative_error}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> CombinationReport:
        """The report that `facts` made these values of."""
        sites = {path: SiteReport(**{**said, "ranks": tuple(said["ranks"])}) for path, said in facts["sites"].items()}
        return cls(
            facts["how"], tuple(facts["adapters"]), tuple(facts["weights"]), sites, facts["knobs"], facts["head"]
        )

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json.dumps(self.facts(), indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        terms = zip(self.weights, self.adapters, strict=True)
        knobs = ", ".join(f"{name}={value}" for name, value in self.knobs.items())
        line = (
            f"{self.how} of {' + '.join(f'{weight:g} · {name}' for weight, name in terms)}{knobs and f' ({knobs})'}, "
            f"{'mean head' if self.head is None else f'head of {self.head}'}: "
            f"{len(self.sites)} sites, relative error {self.relative_error:.2g}"
        )
        rows = [("site", "ranks", "rank", "relative error")]
        for path, site in self.sites.items():
            rows.append((path, " + ".join(map(str, site.ranks)), str(site.rank), f"{site.relative_error:.2g}"))
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = [f"{a:{wide[0]}}  {b:{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in rows]
        return "\n".join([line, *table] if self.sites else [line])

    def __repr__(self) -> str:
        return f"CombinationReport({self.how} of {len(self.adapters)}, relative error {self.relative_error:.2g})"
