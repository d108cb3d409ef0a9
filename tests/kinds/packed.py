"""Whole texts, packed into blocks in which they stay apart; among what is asked are blocks that are not full."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from petune.tasks._packing import STARTS
from petune.tasks.causal_lm import CausalLM
from tests import kinds, tiny

FAMILIES = ("gpt2", "llama")
METHODS = tuple(method for method in kinds.METHODS if method not in ("head", "prompt-tuning"))


def task() -> CausalLM:
    """Short blocks, so that a few rows make several."""
    return CausalLM(packing=True, max_length=24, max_new_tokens=8)


def rows(n: int) -> list[dict[str, Any]]:
    """Texts; more than rows are asked for, so that there are about as many blocks."""
    return [{"text": f"{row['text']} {row['label']}"} for row in tiny.rows(2 * n)]


def real(logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """The logits of pieces that are no padding."""
    return logits[inputs[STARTS] >= 0]
