"""The prefix of a peft folder, as petune's `prefix` layers; only where positions are rotations (see `rotary`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from petune.errors import AdapterFileError
from petune.storage import manifest, rotary


def layers(
    said: Mapping[str, Any], own: Mapping[str, Tensor], config: Any, source: str
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """peft's matrix (P, layers * 2 * H * K) as keys and values per layer, the keys turned back by P positions.

    Raises:
        AdapterFileError: no backbone to ask for its positions, positions of another kind, a matrix of another shape.
    """
    if config is None:
        raise AdapterFileError(
            f"{source}: a prefix can be read only together with its backbone.", fix="Pass the backbone as well."
        )
    small = manifest.small_config(config)
    why = rotary.why_not(small)
    if why is not None:
        raise AdapterFileError(f"{source} is a prefix that cannot be moved to petune: {why}.")
    matrix = own.get("prompt_embeddings")
    length, count, heads = (
        _count(said, key, source) for key in ("num_virtual_tokens", "num_layers", "num_attention_heads")
    )
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if matrix is None or tuple(matrix.shape) != (length, count * 2 * heads * size) or count != config.num_hidden_layers:
        there = "missing" if matrix is None else str(tuple(matrix.shape))
        raise AdapterFileError(f"{source}: 'prompt_embeddings' is {there}.", expected="(P, layers * 2 * H * K).")
    parts = matrix.view(length, count, 2, heads, size).float()
    made = {
        f"layers.{i}.self_attn": {
            "keys": rotary.turned(parts[:, i, 0], -length, small),
            "values": parts[:, i, 1].clone(),
        }
        for i in range(count)
    }
    return {"length": length}, made


def _count(said: Mapping[str, Any], key: str, source: str) -> int:
    value = said.get(key)
    if type(value) is not int or not 0 < value < 1_000_000:
        raise AdapterFileError(f"{source}: {key}={value!r}.", expected="A positive whole number.")
    return value
