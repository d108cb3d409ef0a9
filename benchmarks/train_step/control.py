"""The arms beside petune: peft's adapters, or all weights, trained by `transformers.Trainer.train()`.

`best` is the best configuration of it: rows grouped by length, no dropout (so that the frozen blocks compute what they
would in evaluation mode), fused AdamW, no gradient checkpointing, no logging and no saving. Otherwise the Trainer's
defaults: random order, the encoder's own dropout.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.train_step.outcome import Outcome
from benchmarks.train_step.settings import STILL, Settings

Rows = list[dict[str, Any]]
LINEAR = r"(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
"""Every linear map of a block of BERT."""


def model(settings: Settings, *, dropout: bool, labels: int = 2) -> Any:
    """A fresh classifier on the encoder."""
    more = {} if dropout else STILL
    return AutoModelForSequenceClassification.from_pretrained(settings.encoder, num_labels=labels, **more)


def sites(blocks: int, top: int | None) -> str:
    """peft's pattern for every linear map of the top blocks, or of all.

    Example:
        >>> import re
        >>> bool(re.fullmatch(sites(6, 2), "bert.encoder.layer.4.output.dense"))
        True
        >>> bool(re.fullmatch(sites(6, 2), "bert.encoder.layer.3.output.dense"))
        False
    """
    numbers = "|".join(str(block) for block in range(blocks - (top or blocks), blocks))
    return rf".*encoder\.layer\.({numbers})\.{LINEAR}"


def with_lora(settings: Settings, base: Any, top: int | None = None, *, dropout: float = 0.0, rank: int = 0) -> Any:
    """LoRA of the same sites, rank and scale as petune's."""
    torch.manual_seed(settings.seed)
    rank = rank or settings.rank
    return get_peft_model(base, LoraConfig(
        task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=settings.alpha, lora_dropout=dropout,
        target_modules=sites(base.config.num_hidden_layers, top),
    ))  # fmt: skip


def with_adalora(settings: Settings, base: Any, steps: int) -> Any:
    """AdaLoRA with petune's defaults: 12 ranks, 8 at the end, the same schedule and penalty."""
    torch.manual_seed(settings.seed)
    return get_peft_model(base, AdaLoraConfig(
        task_type=TaskType.SEQ_CLS, init_r=12, target_r=8, lora_alpha=32, tinit=steps // 10, tfinal=steps * 3 // 10,
        total_step=steps, beta1=0.85, beta2=0.85, orth_reg_weight=0.1,
        target_modules=sites(base.config.num_hidden_layers, None),
    ))  # fmt: skip


class Allocating(TrainerCallback):
    """AdaLoRA's budget, which the Trainer leaves to its caller: after the update and before gradients are dropped."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **there: Any) -> None:
        there["model"].base_model.update_and_allocate(state.global_step)


def encoded(settings: Settings, rows: Rows, *, padded: int = 0) -> Rows:
    """Rows as the Trainer takes them; `padded`: every one of them to this length, as tutorials do."""
    classes = settings.prepared.task.labels
    how: dict[str, Any] = {"padding": "max_length", "max_length": padded} if padded else {}
    how = {"max_length": settings.max_length, **how, "truncation": True}
    pieces = settings.tokenizer([row["text"] for row in rows], **how)
    return [
        {**{name: values[index] for name, values in pieces.items()}, "labels": classes.index(row["label"])}
        for index, row in enumerate(rows)
    ]


def trainer(settings: Settings, learner: Any, rows: Rows, place: str, *, best: bool, **more: Any) -> Trainer:
    """A Trainer that does nothing but train.

    Args:
        place: a folder for what it might write.
        more: arguments of `TrainingArguments`, and `callbacks`, `compute_loss_func` of the Trainer itself.
    """
    own = {name: more.pop(name) for name in ("callbacks", "compute_loss_func") if name in more}
    given = {
        "per_device_train_batch_size": settings.batch, "num_train_epochs": 1, "learning_rate": settings.rate,
        "seed": settings.seed, "train_sampling_strategy": "group_by_length" if best else "random",
        "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip
    made = Trainer(
        model=learner,
        args=TrainingArguments(place, **{**given, **more}),
        train_dataset=rows,  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(settings.tokenizer),
        processing_class=settings.tokenizer,
        **own,
    )
    made.remove_callback(PrinterCallback)
    return made


def trained(settings: Settings, learner: Any, *, best: bool = True, padded: int = 0, **more: Any) -> Outcome:
    """One run of `Trainer.train()`."""
    rows = encoded(settings, settings.train, padded=padded)
    with tempfile.TemporaryDirectory() as place:
        made = trainer(settings, learner, rows, place, best=best, **more)
        seconds = clocked(made)
    tokens = sum(settings.lengths) * int(made.args.num_train_epochs)
    return Outcome(seconds, tokens, [], lambda: accuracy(settings, learner, settings.test))


def clocked(made: Trainer) -> float:
    """Seconds of its training."""
    started = time.perf_counter()
    made.train()
    return time.perf_counter() - started


@torch.no_grad()
def accuracy(settings: Settings, learner: nn.Module, rows: Rows) -> float:
    """The share of rows that are answered rightly."""
    learner.eval()
    collate, right = DataCollatorWithPadding(settings.tokenizer), 0
    ordered = sorted(encoded(settings, rows), key=lambda row: len(row["input_ids"]))
    for start in range(0, len(ordered), 32):
        batch = collate(ordered[start : start + 32])
        labels = batch.pop("labels")
        right += int((learner(**batch).logits.argmax(-1) == labels).sum())
    return right / len(rows)
