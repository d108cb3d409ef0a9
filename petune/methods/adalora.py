"""AdaLoRA: LoRA whose rank budget moves to the sites that matter.

    y = W x + b + s · B (E ⊙ A) x        A: (R, d_in),  E: (R, 1) zero,  B: (d_out, R),  s = alpha / R₀

Every site starts with R₀ ranks. A triplet (row of A, entry of E, column of B) is scored by its smoothed
sensitivity |w · ∂L/∂w| times its smoothed uncertainty. Between `warmup` and `1 - final` of the run the budget
falls from R₀ to `rank` per site on average, along a cubic curve; the lowest entries of E are set to zero.
A penalty keeps A and B near orthogonal.

Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv:2303.10512.
"""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.methods import _importance
from petune.methods._dropping import dropped_share
from petune.methods._importance import PARTS
from petune.methods._stacking import Own
from petune.methods.base import AdapterLayer, Layers, Method, Progress, Site
from petune.methods.lora import LINEAR_ROLES, LoRA, LoRALayer


class AdaLoRALayer(AdapterLayer):
    """`lora_A` (R, d_in), `lora_E` (R, 1), `lora_B` (d_out, R); smoothed scores are buffers: a resume keeps them."""

    lora_E: nn.Parameter

    def __init__(self, d_in: int, d_out: int, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        # Orthogonal from the start, so that the penalty only has to keep what is there.
        self.lora_A = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, d_in)))
        self.lora_E = nn.Parameter(torch.zeros(rank, 1))
        self.lora_B = nn.Parameter(nn.init.orthogonal_(torch.empty(d_out, rank)))
        for part in PARTS:
            self.register_buffer(f"sensitivity_{part}", torch.zeros_like(getattr(self, part)))
            self.register_buffer(f"uncertainty_{part}", torch.zeros_like(getattr(self, part)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (..., d_in), y (..., d_out) -> (..., d_out)."""
        tensors = {"lora_A": self.lora_A * self.lora_E, "lora_B": self.lora_B.mT}
        return LoRALayer.routed(Own(tensors, self.scale, dropout=dropped_share(self.dropout)), x, y)

    def tensors(self) -> dict[str, Tensor]:
        return self.folded().tensors()

    def delta(self) -> Tensor:
        return self.folded().delta()

    def kept(self) -> Tensor:
        """The ranks in use, as indices."""
        return self.lora_E.detach().flatten().nonzero().flatten()

    def folded(self) -> LoRALayer:
        """The same function as a LoRA whose scale is 1: E and s go into the factors, pruned ranks are left out."""
        kept = self.kept()
        d_in, d_out = self.lora_A.shape[1], self.lora_B.shape[0]
        plain = LoRALayer(d_in, d_out, len(kept), 1.0, self.dropout.p).to(self.lora_A.device)
        with torch.no_grad():
            plain.lora_A.copy_(self.lora_A[kept] * self.lora_E[kept])
            plain.lora_B.copy_(self.lora_B[:, kept] * self.scale)
        return plain.train(self.training)

    def scores(self) -> Tensor:
        """How much each rank matters, (R,)."""
        return _importance.scores([self])[0]


@knobs
class AdaLoRA(Method):
    """LoRA whose rank budget moves to the sites that matter. What is kept after a fit is a plain LoRA.

    Args:
        rank: the average rank per site at the end of the run.
        init_rank: ranks per site at the start.
        alpha: numerator of the scale alpha / init_rank.
        dropout: on the input of A, while training.
        targets: roles of the architecture table.
        warmup: share of the run before pruning starts.
        final: share of the run, at its end, in which the budget stays.
        beta1, beta2: smoothing of sensitivity and uncertainty.
        orthogonality: weight of the penalty.

    Examples:
        >>> AdaLoRA(rank=4, init_rank=6).budget(Progress(100, 100), sites=12)
        48
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2303.10512"
    mergeable: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-3

    rank: int = 8
    init_rank: int = 12
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = field(default=LINEAR_ROLES)
    warmup: float = 0.1
    final: float = 0.3
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.rank >= 1, "rank", self.rank, "at least 1")
        check(self.alpha > 0, "alpha", self.alpha, "positive")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        for name in ("warmup", "final", "beta1", "beta2"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        if self.init_rank <= self.rank:
            raise ConfigError(
                f"AdaLoRA(rank={self.rank}, init_rank={self.init_rank}) has nothing to prune.",
                expected="init_rank must be larger than rank.",
                fix=f"Take init_rank={self.rank * 3 // 2 + 1}, or use LoRA.",
            )
        if self.warmup + self.final >= 1:
            raise ConfigError(f"warmup={self.warmup} and final={self.final} leave no time to prune.")

    def roles(self) -> tuple[str, ...]:
        return self.targets

    def layer(self, site: Site) -> AdaLoRALayer:
        return AdaLoRALayer(site.d_in, site.d_out, self.init_rank, self.alpha / self.init_rank, self.dropout)

    def penalty(self, layers: Layers) -> Tensor | None:
        """Mean orthogonality defect over the sites, weighted."""
        if not self.orthogonality or not layers:
            return None
        return _importance.defect(list(layers.values())) * self.orthogonality

    def budget(self, progress: Progress, sites: int) -> int:
        """Ranks that may be in use over all sites after `progress.step` steps: cubic from init_rank to rank."""
        start, end = self.warmup * progress.total, (1 - self.final) * progress.total
        # The last step prunes to the target whatever the rounding of a short run was.
        done = 1.0 if progress.step >= progress.total else min(1.0, max(0.0, (progress.step - start) / (end - start)))
        return round(sites * (self.rank + (self.init_rank - self.rank) * (1 - done) ** 3))

    def after_step(self, layers: Layers, progress: Progress) -> None:
        """Scores every rank by this step's gradients and zeroes the lowest ones above the budget."""
        found = list(layers.values())
        _importance.observe(found, self.beta1, self.beta2)
        _importance.prune(found, self.budget(progress, len(found)))

    def folded(self, layers: Layers) -> LoRA:
        """The LoRA that the folded layers are: a rank per site, and a scale of 1.

        The layers are pruned to the final budget first; only those of a run that broke off are still above it.
        """
        _importance.prune(list(layers.values()), self.budget(Progress(1, 1), len(layers)))
        ranks = {path: len(cast(AdaLoRALayer, layer).kept()) for path, layer in layers.items()}
        return LoRA(
            rank=self.rank, alpha=None, dropout=self.dropout, targets=self.targets, ranks=ranks,
            layers=self.layers, top=self.top, modules=self.modules,
        )  # fmt: skip


__all__ = ["AdaLoRA", "AdaLoRALayer"]
