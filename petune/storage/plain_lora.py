"""The plainest LoRA there is: one rank, a scale of 1, no patterns. Every reader gets it right.

    s · B A = (s · B) A        s goes into B, so that alpha / r = 1, whatever a reader makes of its other fields
    [B 0] [A; 0] = B A         lower ranks are filled up with zeros to one rank for all sites

Readers differ in what they honour: llama.cpp's converter reads `lora_alpha` alone, and neither `use_rslora` nor
`alpha_pattern` nor `rank_pattern`. Here nothing is left to honour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from petune.errors import AdapterFileError
from petune.lookup import find
from petune.storage.stored import Stored


class PlainLoRA(NamedTuple):
    """LoRA factors of one rank and of scale 1: site path -> `lora_A` (R, d_in), `lora_B` (d_out, R)."""

    rank: int
    layers: Mapping[str, Mapping[str, Tensor]]


def plain_lora(stored: Stored) -> PlainLoRA:
    """The same change of the same weights; sites of rank 0 change nothing and are left out.

    Raises:
        AdapterFileError: the adapter is no LoRA, or changes nothing anywhere.
    """
    if stored.method != "lora":
        raise AdapterFileError(
            f"A {stored.method!r} adapter is no LoRA.",
            expected="This target reads LoRA alone (adalora is one, once it is trained).",
            fix="petune merge writes it into its backbone, where the method has a weight change.",
        )
    method = find("methods", "lora")(**stored.knobs)
    ranks = {path: int(own["lora_A"].shape[0]) for path, own in stored.layers.items()}
    kept = {path: rank for path, rank in ranks.items() if rank}
    if not kept:
        raise AdapterFileError("Every site of the adapter has rank 0, so there is nothing to write.")
    rank = max(kept.values())
    layers = {}
    for path, own in kept.items():
        a, b = stored.layers[path]["lora_A"], stored.layers[path]["lora_B"]
        scaled = (b.float() * method.scale(own)).to(b.dtype)
        layers[path] = {
            "lora_A": pad(a, (0, 0, 0, rank - own)).contiguous(),
            "lora_B": pad(scaled, (0, rank - own)).contiguous(),
        }
    return PlainLoRA(rank, layers)
