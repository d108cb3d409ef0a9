"""Losses side by side: what is faster must do the same work.

petune with the trunk kept against petune without, over all steps of both; and petune against peft, from the same first
weights, over the same batches, in petune's order. Differences are relative to the loss.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor

from benchmarks.train_step import control, ours
from benchmarks.train_step.floors import order
from benchmarks.train_step.settings import Settings
from petune import LoRA
from petune.model.backbone import Backbone
from petune.training.fitting import fresh

STEADY = {"lr_scheduler": "constant", "backbone_dropout": False}


def traces(settings: Settings) -> dict[str, Any]:
    """Steps compared, and the largest relative difference."""
    return {"trunk kept and exact": kept_and_exact(settings), "petune and peft": petune_and_peft(settings)}


def kept_and_exact(settings: Settings) -> dict[str, float]:
    """The cache changes when work is done, not what is computed."""
    model, top = settings.backbone(dropout=False), LoRA(rank=settings.rank, alpha=settings.alpha, top=settings.top)
    epochs = _epochs(settings)
    exact, kept = (
        ours.fitted(settings, model, top, epochs=epochs, cache_trunk=kept, **STEADY).losses for kept in (False, True)
    )
    return apart(exact, kept)


def petune_and_peft(settings: Settings) -> dict[str, float]:
    """Both from the same first weights, over the same batches, with AdamW at a constant rate.

    Raises:
        ValueError: the last batch of an epoch would be smaller, which the Trainer cannot be told.
    """
    if len(settings.train) % settings.batch:
        raise ValueError(f"{len(settings.train)} rows are no whole number of batches of {settings.batch}.")
    model, method = settings.backbone(dropout=False), LoRA(rank=settings.rank, alpha=settings.alpha)
    epochs = _epochs(settings)
    mine = ours.fitted(settings, model, method, epochs=epochs, **STEADY).losses
    return apart(mine[: settings.traced], _theirs(settings, model, method, order(settings, epochs)[: settings.traced]))


def _theirs(settings: Settings, model: Any, method: LoRA, steps: list[list[int]]) -> list[float]:
    """peft's losses over the rows of these steps, in this order."""
    learner = control.with_lora(settings, control.model(settings, dropout=False))
    start = fresh(Backbone.open(model), "start", settings.prepared.task, method, None, settings.seed)
    layers = {f"{path}.{part}": tensor for path, parts in start.tensors().items() for part, tensor in parts.items()}
    take(learner, {**layers, **start.head()})
    rows = control.encoded(settings, settings.train)
    losses: list[float] = []

    def noted(outputs: Any, labels: Tensor, **more: Any) -> Tensor:
        loss = torch.nn.functional.cross_entropy(outputs.logits.float(), labels)
        losses.append(float(loss.detach()))
        return loss

    with tempfile.TemporaryDirectory() as place:
        control.trainer(
            settings, learner, [rows[row] for step in steps for row in step], place, best=True, compute_loss_func=noted,
            train_sampling_strategy="sequential", lr_scheduler_type="constant",
        ).train()  # fmt: skip
    return losses


@torch.no_grad()
def take(learner: Any, tensors: dict[str, Tensor]) -> None:
    """Gives peft's model petune's weights: `SITE.lora_A`, and the head's by its own names.

    Raises:
        KeyError: a weight has no place.
    """
    places = {
        name.replace(".modules_to_save", "").replace(".default", ""): parameter
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad
    }
    for name, tensor in tensors.items():
        ends = (f".{name}", f".{name}.weight")  # peft's lora_A is a linear map
        found = [parameter for place, parameter in places.items() if place.endswith(ends)]
        if len(found) != 1:
            raise KeyError(f"{name} has {len(found)} places in peft's model.")
        found[0].copy_(tensor)


def apart(ones: list[float], others: list[float]) -> dict[str, float]:
    """How many steps, and by how much the losses differ at most."""
    pairs = zip(ones, others, strict=True)
    return {"steps": len(ones), "largest": max(abs(one - other) / abs(one) for one, other in pairs)}


def _epochs(settings: Settings) -> int:
    """Epochs that have at least so many steps as are to be compared."""
    return -(-settings.traced // -(-len(settings.train) // settings.batch))
