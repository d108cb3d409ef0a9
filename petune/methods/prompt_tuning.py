"""Prompt tuning: learnt vectors in place of pieces, in front of every text; nothing inside the blocks is touched.

    [p_1 ... p_P ; e_1 ... e_T]        p: (P, D), learnt; e: what the frozen table gives for the pieces

They stand where pieces stand, so masks, positions and key-value caches treat them as such: right beside the text, also
where rows are padded on the left. An encoder keeps its first piece in front of them, for classifiers read there. What
comes out is given back without their places, so a task sees the text alone.

Lester, Al-Rfou and Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.methods._token_rows import TokenRows
from petune.methods.base import AdapterLayer, Method, Site

FIRST = -1_000_001
"""The piece that stands for the first vector; the next ones count down. No vocabulary has negative pieces."""


@knobs
class PromptTuning(Method):
    """Learnt vectors in front of every text. There is no weight change to merge, and a fresh prompt is no identity.

    Each begins as the vector of a piece drawn from the vocabulary, which the paper finds better than noise.

    Args:
        length: P, vectors in front of a text; as many of the backbone's positions are taken.

    Raises:
        ConfigError: `layers`, `top` or `modules`: a prompt acts in front of all blocks.

    Examples:
        >>> PromptTuning(length=8).positions()
        8
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2104.08691"
    identity_at_start: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 3e-2

    length: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.length >= 1, "length", self.length, "at least 1")
        if self.top is not None or self.layers != "all" or self.modules:
            raise ConfigError(
                "A soft prompt acts in front of all blocks.",
                expected="It has neither layers nor top nor modules.",
                fix="Drop them, or use method='prefix', which acts inside of blocks.",
            )

    def roles(self) -> tuple[str, ...]:
        return ("embeddings",)

    def positions(self) -> int:
        return self.length

    def layer(self, site: Site) -> AdapterLayer:
        table: torch.Tensor = site.output.weight.detach()  # type: ignore[assignment, operator]
        drawn = torch.randint(len(table), (self.length,), device="cpu").to(table.device)
        return TokenRows(table[drawn].float().clone(), FIRST)
