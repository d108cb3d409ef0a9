"""How much memory a run takes, and what exactly was measured."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]
import torch

MEGABYTE = 1 << 20


class MemoryMeter:
    """Follows the memory of one run.

    On CUDA the allocator keeps the peak itself. On a CPU the resident memory is sampled between forward and backward,
    where activations are largest; the figure is its growth since the run began.

    Example:
        >>> meter = MemoryMeter(torch.device("cpu"))
        >>> meter.sample()
        >>> meter.peak_megabytes >= 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._process = psutil.Process()
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
        """The memory in use now: of the GPU's tensors, or of this process."""
        used = torch.cuda.memory_allocated(self._cuda) if self._cuda is not None else self._resident()
        return used / MEGABYTE

    @property
    def peak_megabytes(self) -> float:
        """The largest figure seen, as `measured` describes it."""
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda) / MEGABYTE
        return (self._peak - self._start) / MEGABYTE

    @property
    def measured(self) -> str:
        """What `peak_megabytes` is, in words."""
        if self._cuda is not None:
            return "peak of the tensors on the GPU, backbone included"
        return "growth of this process's resident memory since the start of training"
