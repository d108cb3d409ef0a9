"""Prefixes of a whole batch in front of keys and values: each row its own, shorter ones and none hidden by the mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from petune.model.routing import Frame


class Prefixed(NamedTuple):
    """Keys and values with every row's prefix in front.

    Args:
        key, value: (B, H, P + T, K).
        visible: (B, P) bool, which of the P columns a row sees; None: all of them.
    """

    key: Tensor
    value: Tensor
    visible: Tensor | None


def prefixed(frame: Frame, path: str, key: Tensor, value: Tensor) -> Prefixed:
    """Puts every row's prefix in front of keys and values, (B, H, T, K); some row has one."""
    found = list(frame.stacked(path))
    lane, own, rows = found[0]
    if len(found) == 1 and rows is None and (frame.is_single or not frame.is_ragged(lane)):
        longer = lane.layer.routed(own, key, value)
        return Prefixed(longer[0], longer[1], None)
    visible = _visible(frame.widths(path), max(lane.bucket for lane, _, _ in found), key)
    wide_key, wide_value = (F.pad(part, (0, 0, visible.shape[1], 0)) for part in (key, value))
    for lane, own, rows in found:
        at = torch.arange(key.shape[0], device=key.device) if rows is None else rows
        for whole, part in zip(
            (wide_key, wide_value), lane.layer.routed(own, key[at, :, :0], value[at, :, :0]), strict=True
        ):
            whole[at, :, : lane.bucket] = part
    return Prefixed(wide_key, wide_value, visible)


def _visible(widths: list[int], columns: int, key: Tensor) -> Tensor:
    """(B, P) bool: which of the P columns belong to a row's own prefix, of which the widths are given."""
    made = [[column < width for column in range(columns)] for width in widths]
    return torch.tensor(made, device=key.device).expand(len(key), columns)


def widened(extra: Tensor | None, columns: int, visible: Tensor | None, like: Tensor, kind: str) -> Tensor | None:
    """A mask (..., T_q, T) with columns for the prefix in front.

    Args:
        extra: the mask; None: everything is seen.
        visible: (B, P) as from `prefixed`.
        like: the keys with their prefix, (B, H, P + T, K).
        kind: `"sdpa"` or `"eager"`, which adds its mask to the scores.

    Returns:
        (B or 1, 1, T_q or 1, P + T), or None where everything is seen.
    """
    if visible is None:
        return pad_front(extra, columns)
    if extra is None:
        extra = torch.ones(1, 1, 1, like.shape[2] - columns, dtype=torch.bool, device=like.device)
        extra = extra if kind == "sdpa" else torch.zeros_like(extra, dtype=like.dtype)
    front = visible[:, None, None, :].expand(-1, extra.shape[1], extra.shape[2], -1)
    if extra.dtype != torch.bool:
        lowest = torch.finfo(extra.dtype).min
        front = torch.zeros_like(front, dtype=extra.dtype).masked_fill(~front, lowest)
    return torch.cat([front, extra.expand(len(front), -1, -1, -1)], dim=-1)


def pad_front(extra: Tensor | None, columns: int) -> Tensor | None:
    """`columns` in front of a mask or bias (..., T_q, T): always visible, and without a bias."""
    if extra is None:
        return None
    return F.pad(extra, (columns, 0), value=True if extra.dtype == torch.bool else 0.0)
