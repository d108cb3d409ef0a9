"""An encoder-decoder's targets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from petune.tasks.base import IGNORE
from petune.tasks.seq2seq_lm import Seq2SeqLM
from tests import kinds, tiny

FAMILIES = ("t5", "bart")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> Seq2SeqLM:
    """A task that writes little."""
    return Seq2SeqLM(max_new_tokens=8)


def rows(n: int) -> list[dict[str, Any]]:
    """A text and the label that it is turned into."""
    return [{"source": row["text"], "target": row["label"]} for row in tiny.rows(n)]


def real(logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """The logits at pieces of targets."""
    return logits[inputs["decoder_labels"] != IGNORE]
