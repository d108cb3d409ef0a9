"""Jobs for joint fits on one tiny backbone, and what each of them comes to alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from petune import AdaLoRA, Bottleneck, Head, Job, LoRA, Prefix, TrainConfig, Tuner
from petune.methods.base import Method
from tests import tiny

UNDROPPED = {family: {"classifier_dropout": 0.0} for family in ("gpt2", "llama", "qwen2", "qwen3")}
"""Families whose heads drop by default."""


def still(family: str, **changes: Any) -> PreTrainedModel:
    """A backbone without any dropout."""
    return tiny.backbone(family, dropout=0.0, **UNDROPPED.get(family, {}), **changes)


def quick(**knobs: Any) -> TrainConfig:
    """A short, quiet configuration."""
    return TrainConfig(**{"epochs": 2, "batch_size": 4, "learning_rate": 0.02, "progress": "off", **knobs})


def tuner(model: PreTrainedModel, name: str, method: Method | str, task: str = "sequence-classification") -> Tuner:
    """A tuner on a model that others share."""
    return Tuner(model, name=name, method=method, task=task, tokenizer=tiny.tokenizer(model.config.model_type))


def crew(model: PreTrainedModel, **knobs: Any) -> list[Job]:
    """Six jobs of 50 steps, no two of the same method, data, rate, batch size or length of rows."""

    def config(**own: Any) -> TrainConfig:
        return quick(**{**own, **knobs})

    tags = tuner(model, "tags", Bottleneck(width=8), "token-classification")
    return [
        Job(tuner(model, "low", LoRA(rank=4)), tiny.rows(100), tiny.rows(12, seed=3), config()),
        Job(tuner(model, "high", LoRA(rank=8, top=1)), tiny.rows(58, 3, seed=1), None,
            config(epochs=5, batch_size=6, learning_rate=0.01, seed=3)),
        Job(tags, tiny.tag_rows(74), None, config(epochs=5, gradient_accumulation_steps=2)),
        Job(tuner(model, "pruned", AdaLoRA(rank=2, init_rank=4)), tiny.multi_rows(100, seed=2), None, config(seed=7)),
        Job(tuner(model, "probe", Head()), tiny.score_rows(100), None, config(learning_rate=0.005)),
        Job(tuner(model, "prefix", Prefix(length=3)), [{**row, "text": row["text"] * 3} for row in tiny.rows(100)],
            None, config(max_grad_norm=0.1, lr_scheduler="cosine")),
    ]  # fmt: skip


def even(n: int, times: int = 1) -> list[dict[str, str]]:
    """Rows of one length."""
    return [{"text": f"{('awful', 'great')[i % 2]} film " * times, "label": ("bad", "good")[i % 2]} for i in range(n)]


def alone(jobs: Sequence[Job]) -> list[Tuner]:
    """Each job fitted by a tuner of its own, one after the other, on the same backbone."""
    made = []
    for job in jobs:
        twin = Tuner(job.tuner.backbone.model, name=job.tuner.name, method=job.tuner.method, task=job.tuner.task,
                     tokenizer=job.tuner.tokenizer)  # fmt: skip
        made.append(twin.fit(job.train, job.eval_data, job.config, continue_from=job.continue_from))
    return made


def again(jobs: Sequence[Job], **knobs: Any) -> list[Job]:
    """The same jobs with fresh tuners, and other knobs."""
    return [
        replace(
            job, tuner=Tuner(job.tuner.backbone.model, name=job.tuner.name, method=job.tuner.method,
                             task=job.tuner.task, tokenizer=job.tuner.tokenizer),
            config=replace(job.config or TrainConfig(), **knobs),
        )
        for job in jobs
    ]  # fmt: skip


def losses(tuner: Tuner) -> list[float]:
    """One per optimizer step."""
    return [row["loss"] for row in tuner.report.history if "loss" in row]


def apart(one: Tuner, other: Tuner) -> float:
    """The largest relative difference of two loss curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses(one), losses(other), strict=True))


def tensors(tuner: Tuner) -> dict[str, torch.Tensor]:
    """Every weight that was learnt, by name."""
    layers = {f"{path}:{name}": t for path, named in tuner.adapter.tensors().items() for name, t in named.items()}
    return {**layers, **tuner.adapter.head()}


def same(one: Tuner, other: Tuner) -> bool:
    """Whether two tuners have learnt the same bits."""
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
