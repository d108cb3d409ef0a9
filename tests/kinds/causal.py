"""A decoder's completions; a language model's head is its backbone's, so there is none to train alone."""

from __future__ import annotations

from typing import Any

from petune.tasks.causal_lm import CausalLM
from tests import kinds, tiny
from tests.kinds import pieces as real  # noqa: F401

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "opt")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> CausalLM:
    """A task that writes little."""
    return CausalLM(max_new_tokens=8)


def rows(n: int) -> list[dict[str, Any]]:
    """A text and the label that follows it."""
    return [{"prompt": row["text"], "completion": row["label"]} for row in tiny.rows(n)]
