"""What the laws need to know of a kind of task: one file, one kind. The folder is the registry.

A file has

    FAMILIES        the families (of `tests.tiny`) whose backbones can have it
    task()          the task before it has learnt; what it writes is kept short
    rows(n)         rows of different lengths, from which it can learn

and where the usual does not hold

    METHODS         the methods that make sense; all
    OWN_PIECES      whether its batches hold pieces that its adapters alone know: no bare run, no merge; False
    asked(row)      what `predict` is asked of a row; its first value
    real(logits, inputs)    the logits that mean something; all of them, (B, ...) in the order of the batch
    reads(family)   what makes its rows into tensors; the family's tokenizer
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from petune.tasks.base import Task
from tests import tiny

METHODS = ("lora", "adalora", "bottleneck", "prefix", "prompt-tuning", "head", "full")


class Kind(NamedTuple):
    """A kind of task, as its file tells it."""

    name: str
    families: tuple[str, ...]
    methods: tuple[str, ...]
    task: Callable[[], Task]
    rows: Callable[[int], list[dict[str, Any]]]
    asked: Callable[[dict[str, Any]], Any]
    real: Callable[[Tensor, dict[str, Tensor]], Tensor]
    reads: Callable[[str], Any]
    own_pieces: bool


def _first(row: dict[str, Any]) -> Any:
    return next(iter(row.values()))


def _all(logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    return logits


def pieces(logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """The logits of pieces that are no padding."""
    return logits[inputs["attention_mask"].bool()]


def _read(name: str) -> Kind:
    file = importlib.import_module(f"tests.kinds.{name}")
    get = vars(file).get
    methods, real, reads = get("METHODS", METHODS), get("real", _all), get("reads", tiny.tokenizer)
    own = get("OWN_PIECES", False)
    return Kind(name, file.FAMILIES, methods, file.task, file.rows, get("asked", _first), real, reads, own)


KINDS = {path.stem: _read(path.stem) for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))}
