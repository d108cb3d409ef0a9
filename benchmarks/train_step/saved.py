"""What autograd keeps from one forward, counted: with LoRA's own dropout at 0.1, and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.train_step import control
from benchmarks.train_step.floors import batches
from benchmarks.train_step.settings import Settings
from petune import LoRA
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.learner import Learner

DROPOUT = 0.1


def saved_bytes(settings: Settings) -> dict[str, Any]:
    """Bytes of the same batch in each arm, and how much dropout adds."""
    batch = batches(settings)[0]
    found: dict[str, Any] = {}
    for name, count in (("petune", _ours), ("peft", _theirs)):
        plain, dropped = (count(settings, batch, dropout) for dropout in (0.0, DROPOUT))
        found[name] = {"without": plain, "with": dropped, "ratio": dropped / plain}
    return found


def _ours(settings: Settings, batch: dict[str, Tensor], dropout: float) -> int:
    backbone = Backbone.open(settings.backbone(dropout=False))
    method = LoRA(rank=settings.rank, alpha=settings.alpha, dropout=dropout)
    bank, adapter = Bank(backbone), Adapter.make(backbone, "counted", method, settings.prepared.task)
    bank.add(adapter)
    learner = Learner(bank, adapter)
    with learner.fitting(backbone_dropout=False):
        return kept(lambda: learner(**batch), adapter.shell.model, learner)


def _theirs(settings: Settings, batch: dict[str, Tensor], dropout: float) -> int:
    learner = control.with_lora(settings, control.model(settings, dropout=False), dropout=dropout).train()
    return kept(lambda: learner(**batch), learner)


def kept(forward: Callable[[], Any], *modules: nn.Module) -> int:
    """The storages that autograd keeps, each once, and those of weights not at all."""
    weights = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    seen: dict[int, tuple[int, Tensor]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that its place is not given away
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer = forward()
    del answer
    return sum(size for size, _ in seen.values())
