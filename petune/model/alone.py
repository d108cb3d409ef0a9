"""Logits processors that treat each row of a generated batch as if it were alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

READERS = (
    RepetitionPenaltyLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    NoBadWordsLogitsProcessor,
    SequenceBiasLogitsProcessor,
)
"""Processors that look at the pieces before the next one."""


def reads_padding(processor: LogitsProcessor) -> bool:
    """Whether a processor would take padding for pieces of the text; some have learnt to pass it over."""
    return isinstance(processor, READERS) and getattr(processor, "prompt_ignore_length", None) is None


class Draws(LogitsProcessor):
    """Draws each row's next piece with the row's own random numbers, and leaves no other piece possible.

    The largest of log p + g is a draw from p, where g = -log(e) with e ~ Exp(1) (the Gumbel-max trick; Maddison,
    Tarlow and Minka 2014, arXiv:1411.0030). The numbers come from the CPU, so that they are the same on every device.

    Args:
        seeds: one for each row of the caller.
        times: sequences per row; each has a stream of its own.

    Examples:
        >>> logits = torch.zeros(2, 5)
        >>> both = Draws([3, 4])(torch.zeros(2, 1), logits)
        >>> alone = Draws([4])(torch.zeros(1, 1), logits[1:])
        >>> bool((both[1:] == alone).all()), int(both.isfinite().sum())
        (True, 2)
    """

    def __init__(self, seeds: Sequence[int], times: int = 1) -> None:
        self._streams = [_stream(seed, number) for seed in seeds for number in range(times)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores (B, V) -> (B, V): 0 for the drawn piece, -inf for all others."""
        drawn = [torch.empty(scores.shape[-1]).exponential_(generator=stream) for stream in self._streams]
        noise = torch.stack(drawn).clamp_min_(torch.finfo(torch.float32).tiny).log_().to(scores.device)
        best = (scores.float() - noise).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, best, 0.0)


def _stream(seed: int, number: int) -> torch.Generator:
    # Seeded by text, so that sequence 1 of seed 0 is never sequence 0 of seed 1.
    return torch.Generator().manual_seed(random.Random(f"sequence {number} of seed {seed}").getrandbits(63))


class Unpadded(LogitsProcessor):
    """Another processor, shown each row without the padding on its left.

    Args:
        inner: what is called on rows of one length at a time.
        pads: how many pieces of padding each row begins with.
    """

    def __init__(self, inner: LogitsProcessor, pads: Sequence[int]) -> None:
        self._inner, self._pads = inner, list(pads)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (B, T), scores (B, V) -> (B, V)."""
        made = scores.clone()
        for pad in set(self._pads):
            rows = torch.tensor([row for row, of in enumerate(self._pads) if of == pad], device=scores.device)
            made[rows] = self._inner(input_ids[rows, pad:], scores[rows])
        return made
