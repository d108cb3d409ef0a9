"""Many tiny adapters on disk, no two alike, and the answers that each must give."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank, Contents
from petune.model.running import run
from petune.storage import adapter_file, shelf
from petune.storage.packing import pack
from petune.storage.store import AdapterStore
from tests.conformance.subjects import batch, method, open_backbone, shake, task

RECIPES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("lora", {"rank": 2}, "single"),
    ("bottleneck", {"width": 4}, "multi"),
    ("lora", {"rank": 8}, "multi"),
    ("prefix", {"length": 3}, "single"),
    ("lora", {"rank": 3}, "regression"),
)
"""Methods, inner sizes and heads that differ, in turn."""


@cache
def backbone() -> Backbone:
    """A backbone to make them on and to ask them alone; each store gets a fresh one with the same weights."""
    return open_backbone("bert")


@cache
def inputs() -> dict[str, Tensor]:
    """One row."""
    return batch("bert", "single", 1)


def made(name: str, seed: int, recipe: tuple[str, dict[str, Any], str] | None = None) -> Adapter:
    """An adapter whose answers no other seed gives."""
    kind, knobs, job = recipe or RECIPES[seed % len(RECIPES)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = Adapter.make(backbone(), name, method(kind, **knobs), task(job))
        shake(adapter)
        with torch.no_grad():
            for parameter in adapter.shell.head().values():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return adapter


def write(folder: Path, seed: int, recipe: tuple[str, dict[str, Any], str] | None = None) -> Path:
    """The folder of an adapter."""
    return adapter_file.write(folder, pack(made(folder.name, seed, recipe), None))


def stock(root: Path, count: int, recipe: tuple[str, dict[str, Any], str] | None = None) -> list[str]:
    """Writes `a000`, `a001`, ... beneath a directory; the seeds are their numbers."""
    names = [f"a{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        write(root / name, number, recipe)
    return names


def store(folders: Any, resident: int | str = 64, **more: Any) -> AdapterStore:
    """A store that serves a bank on a backbone of its own."""
    return AdapterStore(folders, resident).bind(Bank(open_backbone("bert")), **more)


@torch.no_grad()
def answers(bank: Bank, names: Sequence[str], contents: Contents | None = None) -> list[Tensor]:
    """The logits of each name on the one row, in one routed batch."""
    rows = {key: tensor.expand(len(names), -1).contiguous() for key, tensor in inputs().items()}
    return [*run(bank, bank.frame(list(names), contents), rows).logits]


def expected(folder: Path) -> Tensor:
    """The answer of the adapter in a folder, alone on the backbone."""
    bank = Bank(backbone())
    bank.seat(shelf.take(folder, backbone(), "alone").adapter)
    try:
        return answers(bank, ["alone"])[0]
    finally:
        bank.remove("alone")


def is_like(answer: Tensor, right: Tensor) -> bool:
    """Whether an answer is the right one; the size of a batch moves the last bits."""
    return answer.shape == right.shape and bool((answer - right).abs().max() < 1e-4)


def are_distinct(found: Sequence[Tensor]) -> bool:
    """Whether no answer could be taken for another one."""
    return not any(is_like(one, other) for one, other in itertools.combinations(found, 2))
