"""A batch without its padding: one line of real pieces, in which rows of equal length follow each other.

    (B, T, D), of which N pieces are real   ->   (1, N, D)

All that is done piece by piece (linear maps, norms, activations, adapters) then costs N and not B T. Attention is the
only work that looks across pieces: rows of one length attend in one call, and no row sees another.

Zeng et al. 2022, "Boosting Distributed Training Performance of the Unpadded BERT Model", arXiv:2208.08124;
Kundu et al. 2024, "Enhancing Training Efficiency Using Packing with Flash Attention", arXiv:2407.09105.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Run(NamedTuple):
    """Rows of one length that follow each other in the line."""

    rows: list[int]
    first: list[int]
    """Where each begins in its padded row; 0 unless it is padded on the left."""
    length: int

    @property
    def pieces(self) -> int:
        """All of them."""
        return len(self.rows) * self.length


class Layout:
    """Which piece of a padded batch lies where in the line.

    Args:
        shape: (B, T) of the padded batch.
        runs: the rows, the longest first.
        device: where the states are.
    """

    def __init__(self, shape: tuple[int, int], runs: Sequence[Run], device: torch.device) -> None:
        self.shape, self.runs = shape, tuple(runs)
        self.sizes = [run.pieces for run in runs]
        starts = [(row * shape[1] + first, run.length) for run in runs for row, first in zip(*run[:2], strict=True)]
        places = torch.cat([torch.arange(start, start + length) for start, length in starts])
        # From pinned memory the host need not wait until it is there.
        self.places = places.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else places.to(device)
        """(N,) the line's pieces among the B T positions."""
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def pieces(self) -> int:
        """N, the real ones."""
        return sum(self.sizes)

    @property
    def padding_share(self) -> float:
        """The share of positions that only pad."""
        return 1 - self.pieces / (self.shape[0] * self.shape[1])

    def pack(self, states: Tensor) -> Tensor:
        """(B, T, ...) or (1, T, ...), for every row the same, -> (1, N, ...)."""
        whole = states.expand(self.shape[0], *states.shape[1:])
        return whole.flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def packed_once(self, states: Tensor) -> Tensor:
        """The same, remembered: all blocks are handed the same positions."""
        if id(states) not in self._packed:
            self._packed[id(states)] = states, self.pack(states)  # the key lives as long as what it stands for
        return self._packed[id(states)][1]

    def unpack(self, line: Tensor) -> Tensor:
        """(1, N, ...) -> (B, T, ...), with zeros where only padding was."""
        whole = line.new_zeros(self.shape[0] * self.shape[1], *line.shape[2:])
        return whole.index_copy(0, self.places, line[0]).unflatten(0, self.shape)


def layout_of(mask: Tensor, device: torch.device | None = None) -> Layout | None:
    """The layout of a batch by its attention mask, (B, T); None where a row has no pieces, or gaps between them.

    Args:
        mask: best on the host, which waits for it otherwise.
        device: where the states are; None: where the mask is.

    Examples:
        >>> layout_of(torch.tensor([[1, 0, 0], [1, 1, 1]])).places.tolist()
        [3, 4, 5, 0]
    """
    real = (mask != 0).to(torch.uint8)
    behind = real.flip(1).argmax(1)
    table = torch.stack([real.argmax(1), mask.shape[1] - behind, real.sum(1)], dim=1)
    found = table.tolist()
    if any(length == 0 or end - first != length for first, end, length in found):
        return None
    order = sorted(range(len(found)), key=lambda row: -found[row][2])
    runs = []
    for length, group in itertools.groupby(order, key=lambda row: found[row][2]):
        rows = list(group)
        runs.append(Run(rows, [found[row][0] for row in rows], length))
    return Layout((mask.shape[0], mask.shape[1]), runs, device or mask.device)


class Unpadded(NamedTuple):
    """Stands where a block is given its attention mask, and so finds its way to the attention of a packed call.

    It travels as an argument, so that gradient checkpointing recomputes with it, whenever and in whichever thread.

    Args:
        mask: that of the padded batch, (B or 1, 1, T, T), or None.
    """

    layout: Layout
    mask: Tensor | None

    def attend(
        self,
        original: Callable[..., Any],
        kind: str,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, None]:
        """query (1, H_q, N, K), key and value (1, H, N, K) -> (1, N, H_q, K).

        Args:
            original: the attention function that the backbone would call, of this kind: `"sdpa"` or `"eager"`.
        """
        if _flash_takes(query, module, kind, kwargs):
            return _flash(self.layout, module, query, key, value, kwargs), None
        split = (each.split(self.layout.sizes, dim=2) for each in (query, key, value))
        made = []
        for run, *given in zip(self.layout.runs, *split, strict=True):
            apart = (each[0].unflatten(1, (len(run.rows), run.length)).transpose(0, 1) for each in given)
            made.append(original(module, *apart, self._mask_of(run, module, kind), **kwargs)[0].flatten(0, 1))
        return torch.cat(made).unsqueeze(0), None

    def _mask_of(self, run: Run, module: nn.Module, kind: str) -> Tensor | None:
        """What the padded mask says of a run's rows; None where each piece sees its row, or under sdpa what is before.

        Without a window, and without padding, that is all a mask tells.
        """
        told = kind == "sdpa" or not getattr(module, "is_causal", False)
        if self.mask is None or (told and not getattr(module, "sliding_window", None)):
            return None
        cut = []
        for row, first in zip(run.rows, run.first, strict=True):
            span = slice(first, first + run.length)
            cut.append(self.mask[row if len(self.mask) > 1 else 0, :, span, span])
        return torch.stack(cut)


def _flash_takes(query: Tensor, module: nn.Module, kind: str, kwargs: dict[str, Any]) -> bool:
    """Whether torch's attention of rows of any length can do this: on CUDA, in half precision, without dropout."""
    return (
        query.is_cuda
        and kind == "sdpa"
        and query.dtype in (torch.float16, torch.bfloat16)
        and not kwargs.get("dropout")
        and not getattr(module, "sliding_window", None)
    )


def _flash(
    layout: Layout, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, kwargs: dict[str, Any]
) -> Tensor:
    """All rows in one call, (1, H, N, K) -> (1, N, H_q, K)."""
    from torch.nn.attention.varlen import varlen_attn

    lengths = [run.length for run in layout.runs for _ in run.rows]
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32).to(query.device, non_blocking=True)
    window = (-1, 0) if getattr(module, "is_causal", False) else (-1, -1)
    queries, keys, values = (each[0].transpose(0, 1) for each in (query, key, value))
    made = varlen_attn(
        queries, keys, values, bounds, bounds, lengths[0], lengths[0], scale=kwargs.get("scaling"), window_size=window,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    assert isinstance(made, Tensor)
    return made.unsqueeze(0)
