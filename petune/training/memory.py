"""How much memory a run takes, and what exactly was measured."""

from __future__ import annotations

from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

MEGABYTE = 1 << 20


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What tensors take, each counted once.

    Examples:
        >>> tensor = torch.ones(10)
        >>> bytes_of([tensor, tensor])
        40
    """
    return sum(each.numel() * each.element_size() for each in {id(tensor): tensor for tensor in tensors}.values())


class MemoryMeter:
    """Follows the memory of one run: weights (the frozen backbone's too), gradients, optimizer state and activations.

    The figure has one meaning everywhere: the plan estimates its peak, the progress line shows it as it is now, the
    report tells its peak. Python, its libraries and the data are not in it.

    On CUDA the allocator keeps count, and knows the peak. On a CPU it is the weights, plus what this process has grown
    by since the run began, sampled between forward and backward, where activations are largest. Memory that the
    process had before and uses again is no growth: after other work in the same process the figure is a lower bound.

    Args:
        device: where the run computes.
        weights: bytes of the weights that are there when the run begins.

    Examples:
        >>> meter = MemoryMeter(torch.device("cpu"), weights=3 * MEGABYTE)
        >>> meter.sample()
        >>> meter.peak_megabytes >= 3
        True
    """

    def __init__(self, device: torch.device, weights: int = 0) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._process, self._weights = psutil.Process(), weights
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._start = self._peak = self._resident()

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)

    def sample(self) -> None:
        """Notes the present memory; call it where it is largest."""
        if self._cuda is None:
            self._peak = max(self._peak, self._resident())

    @property
    def now_megabytes(self) -> float:
        """The memory in use now."""
        if self._cuda is not None:
            return torch.cuda.memory_allocated(self._cuda) / MEGABYTE
        return (self._weights + max(self._resident() - self._start, 0)) / MEGABYTE

    @property
    def peak_megabytes(self) -> float:
        """The largest figure seen."""
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda) / MEGABYTE
        return (self._weights + self._peak - self._start) / MEGABYTE

    @property
    def measured(self) -> str:
        """How `peak_megabytes` was measured, in words."""
        if self._cuda is not None:
            return "peak of all tensors on the GPU"
        return "the weights, and what this process grew by in training"
