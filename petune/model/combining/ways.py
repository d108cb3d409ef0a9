"""The ways to combine weight changes Δᵢ = sᵢ Bᵢ Aᵢ with weights wᵢ, and their knobs.

| how | the result | weights, if none are given | source |
|---|---|---|---|
| `linear` | Σ wᵢ Δᵢ, exactly | 1 / n | |
| `task_arithmetic` | Σ wᵢ Δᵢ, exactly | 1 | Ilharco et al. 2022, arXiv:2212.04089 |
| `cat` | Σ wᵢ Δᵢ, the factors side by side | 1 / n | |
| `svd` | Σ wᵢ Δᵢ, cut to `rank` | 1 / n | Eckart and Young 1936 |
| `magnitude_prune` | Σ wᵢ keep(Δᵢ) | 1 / n | the largest entries, as TIES trims |
| `ties` | the mean of those of keep(Δᵢ) that have the elected sign | 1 | Yadav et al. 2023, arXiv:2306.01708 |
| `dare_linear` | Σ wᵢ drop(Δᵢ) | 1 / n | Yu et al. 2023, arXiv:2311.03099 |
| `dare_ties` | the mean of those of drop(Δᵢ) that have the elected sign | 1 | both |

The last four prune entries of the products, so a site's products are multiplied out, one site at a time, and the
result is compressed to `rank`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.lookup import unknown
from petune.model.combining.lowrank import Factors
from petune.model.combining.pruning import drop_at_random_, keep_largest_
from petune.model.combining.signs import Majority, elected_mean


@dataclass(frozen=True)
class Way:
    """One way to combine.

    Args:
        average: the default weights are 1 / n, and not 1.
        prune: which entries of each product are kept; none: low-rank algebra, the products are never multiplied out.
        elects: whether TIES elects a sign per entry.
        density: the share of entries kept where none is given.
    """

    average: bool = True
    prune: Literal["none", "largest", "random"] = "none"
    elects: bool = False
    density: float = 1.0


WAYS = {
    "linear": Way(),
    "task_arithmetic": Way(average=False),
    "cat": Way(),
    "svd": Way(),
    "magnitude_prune": Way(prune="largest", density=0.5),
    "ties": Way(average=False, prune="largest", elects=True, density=0.2),
    "dare_linear": Way(prune="random", density=0.5),
    "dare_ties": Way(average=False, prune="random", elects=True, density=0.5),
}


@knobs
class Recipe:
    """How adapters are combined.

    Args:
        how: a name of `WAYS`.
        rank: the largest rank of the result at a site; None: exact where low-rank algebra can be (`linear`,
            `task_arithmetic`, `cat`), else the largest rank that goes in at that site.
        density: share of the entries that pruning keeps; None: 0.2 for `ties` (as in its paper), else 0.5, and 1 for an
            adapter that is alone: there is nothing that it could interfere with.
        majority_sign: how TIES elects a sign: by the sum of the entries (`"total"`, also None) or by their number.
        seed: of DARE.

    Raises:
        UnknownNameError: no such way.
        ConfigError: a knob that is out of range, or that means nothing for this way.

    Examples:
        >>> Recipe(how="tise")
        Traceback (most recent call last):
        petune.errors.UnknownNameError: There is no way of merging 'tise'. Did you mean 'ties'?
    """

    how: str = "linear"
    rank: int | None = None
    density: float | None = None
    majority_sign: Majority | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how not in WAYS:
            raise unknown("way of merging", self.how, WAYS)
        check(self.rank is None or self.rank >= 1, "rank", self.rank, "None or at least 1")
        check(self.density is None or 0 < self.density <= 1, "density", self.density, "in (0, 1]")
        for knob, means in {"density": self.way.prune != "none", "majority_sign": self.way.elects}.items():
            if getattr(self, knob) is not None and not means:
                others = [name for name, way in WAYS.items() if (way.elects if knob[0] == "m" else way.prune != "none")]
                raise ConfigError(
                    f"{knob}={getattr(self, knob)!r} means nothing for how={self.how!r}.",
                    expected=f"It belongs to {', '.join(others)}.",
                    fix=f"Drop {knob}.",
                )
        if self.how == "cat" and self.rank is not None:
            raise ConfigError(
                f"rank={self.rank} contradicts how='cat'.",
                expected="Factors side by side have the sum of the ranks.",
                fix="Use how='svd', or drop rank.",
            )

    @property
    def way(self) -> Way:
        """The entry of the table."""
        return WAYS[self.how]

    def weights(self, count: int) -> list[float]:
        """The weights of `count` adapters where none are given."""
        return [1.0 / count if self.way.average else 1.0] * count

    def share(self, count: int) -> float:
        """The density for `count` adapters."""
        return self.density if self.density is not None else self.way.density if count > 1 else 1.0


def multiplied_out(
    parts: Sequence[Factors], weights: Sequence[float], recipe: Recipe, density: float, generator: torch.Generator
) -> Tensor:
    """What a way that prunes makes of one site: (d_out, d_in) float32, nothing of it compressed yet.

    At most two matrices more than there are adapters are alive at a time; three and a mask where no sign is elected.
    """

    way, total, changes = recipe.way, None, []
    for part, weight in zip(parts, weights, strict=True):
        change = part.b.float() @ part.a.float()
        if way.prune == "largest":
            keep_largest_(change, density)
        else:
            drop_at_random_(change, density, generator)
        if way.elects:
            changes.append(change)
        else:
            total = change.mul_(weight) if total is None else total.add_(change, alpha=weight)
        del change  # before the next one is made
    if way.elects:
        return elected_mean(changes, weights, recipe.majority_sign or "total")
    assert total is not None, "a site is combined where some adapter has it"
    return total
