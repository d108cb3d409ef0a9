"""Turning prefix keys between petune's positions and peft's, where positions are rotations.

petune joins a prefix after positions were applied: token i sits at position i. peft's prefix is a cache of P entries:
token i sits at position P + i. Rotary attention sees only q and k turned against each other,

    <R(i) q, k> = <R(P + i) q, R(P) k>,

so keys turned by P give peft the same scores. Where positions are learnt vectors there is no such turn.
Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FAMILIES = ("llama", "qwen2", "qwen3")
"""The `model_type`s whose attention is only turned, over the whole head, with every key in sight."""


def why_not(config: Mapping[str, Any]) -> str | None:
    """Why prefix keys of this backbone cannot be turned, or None.

    Args:
        config: the manifest's `backbone.config`.

    Examples:
        >>> why_not({"model_type": "bert"})
        "peft gives every token a later position than petune does, and bert's positions cannot be turned back"
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        return (
            f"peft gives every token a later position than petune does, and {family}'s positions cannot be turned back"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) not in (
        1,
        None,
    ):
        return f"its rotary positions are of the kind {kind!r}, only 'default' ones over the whole head are turned"
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        return "its attention has a sliding window, which peft's prefix would slide out of"
    if not rope.get("rope_theta") and not config.get("rope_theta"):
        return "its configuration names no rope_theta"
    return None


def turned(keys: Tensor, by: int, config: Mapping[str, Any]) -> Tensor:
    """R(by) keys: (P, H, K) -> (P, H, K), float32; `by` may be negative.

    Examples:
        >>> keys, config = torch.randn(2, 1, 4), {"rope_theta": 10000.0}
        >>> torch.allclose(turned(turned(keys, 3, config), -3, config), keys, atol=1e-6)
        True
    """
    half = keys.shape[-1] // 2
    theta = (config.get("rope_parameters") or {}).get("rope_theta") or config["rope_theta"]
    angle = by / theta ** (torch.arange(0, 2 * half, 2).float() / (2 * half))
    cos, sin = torch.cat([angle, angle]).cos(), torch.cat([angle, angle]).sin()
    plain = keys.detach().cpu().float()
    return plain * cos + torch.cat([-plain[..., half:], plain[..., :half]], dim=-1) * sin
