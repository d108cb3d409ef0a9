"""Which entries of a weight change are kept: the largest (TIES, magnitude pruning), or some at random (DARE).

Both work in place: next to the change itself they need one more matrix of its size for a moment.
"""

from __future__ import annotations

import torch
from torch import Tensor


def keep_largest_(change: Tensor, density: float) -> Tensor:
    """Zeroes all but the ⌊density · size⌋ entries of largest magnitude; entries equal to the last of them stay too.

    Yadav et al. 2023, "TIES-Merging", arXiv:2306.01708, section 3, "trim".

    Args:
        change: (d_out, d_in) float32 on the CPU, contiguous.
        density: share of the entries to keep, in [0, 1].

    Examples:
        >>> keep_largest_(torch.tensor([[1.0, -4.0], [3.0, -2.0]]), 0.5).tolist()
        [[0.0, -4.0], [3.0, 0.0]]
    """
    kept = int(density * change.numel())
    if kept == change.numel():
        return change
    if kept == 0:
        return change.zero_()
    magnitudes = change.abs().flatten().numpy()
    magnitudes.partition(len(magnitudes) - kept)  # in place, unlike torch's kthvalue and topk
    smallest = float(magnitudes[len(magnitudes) - kept])
    del magnitudes
    return change.masked_fill_(change.abs() < smallest, 0.0)


def drop_at_random_(change: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keeps each entry with probability `density`, divided by it, so that the expectation stays what it was.

    Yu et al. 2023, "Language Models are Super Mario", arXiv:2311.03099: DARE with drop rate 1 - density.

    Examples:
        >>> kept = drop_at_random_(torch.ones(2, 4), 0.5, torch.Generator().manual_seed(0))
        >>> sorted(set(kept.flatten().tolist()))
        [0.0, 2.0]
    """
    if density == 1.0:
        return change
    dropped = torch.rand(change.shape, generator=generator) >= density
    return change.masked_fill_(dropped, 0.0).div_(density)
