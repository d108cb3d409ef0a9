"""A small training run for each method, which ends with the same bits each time; it is killed, damaged and resumed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from petune import AdaLoRA, Bottleneck, LoRA, Prefix, TrainConfig, Tuner
from petune.methods.base import Method
from tests import tiny

METHODS: dict[str, Method] = {
    "lora": LoRA(rank=4),
    "adalora": AdaLoRA(rank=2, init_rank=4),
    "bottleneck": Bottleneck(width=4),
    "prefix": Prefix(length=3),
}
SAVE_EVERY = 2


def config(folder: Path | None, **more: Any) -> TrainConfig:
    """12 steps in 2 epochs, with accumulation, buckets, dropout, evaluations and a best adapter; 6 checkpoints."""
    kept = {"output_dir": folder, "save_every": SAVE_EVERY, "keep_last": 1} if folder else {}
    knobs = {"epochs": 2, "batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 0.02, "progress": "off"}
    return TrainConfig(**{**knobs, **kept, **more})


def tuner(method: str) -> Tuner:
    """One that has learnt nothing."""
    return Tuner(tiny.backbone("bert", dropout=0.1), method=METHODS[method], tokenizer=tiny.tokenizer("bert"))


def fit(method: str, folder: Path | None, *, resume: str | None = "auto", **more: Any) -> str:
    """A whole run, or the rest of one; a digest of all its bits.

    Args:
        folder: of the checkpoints; None: nothing is kept, nothing is resumed.
        more: further knobs of `TrainConfig`, or `callbacks`.
    """
    callbacks = more.pop("callbacks", ())
    made = tuner(method)
    made.fit(
        tiny.rows(46),
        tiny.rows(8, seed=3),
        config(folder, **more),
        resume=resume if folder else None,
        callbacks=callbacks,
    )
    return digest(made)


def digest(made: Tuner) -> str:
    """Of weights, head and history; how long it took is left out."""
    found = hashlib.sha256()
    layers = {f"{path}:{name}": t for path, named in made.adapter.tensors().items() for name, t in named.items()}
    for name, tensor in sorted({**layers, **made.adapter.head()}.items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    unequal = ("seconds", "tokens_per_second")
    rows = [{name: value for name, value in row.items() if name not in unequal} for row in made.report.history]
    found.update(json.dumps([rows, made.report.best, made.report.best_step]).encode())
    return found.hexdigest()
