"""One of several processes that train together, one job after the other; `test_distributed.py` starts them.

python -m tests.training.two_processes OUT {"name of a job": {"optimizer": "sgd", ...}, ...}
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from petune.knobs import knobs
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.learner import Learner
from petune.training import writing as writing_room
from petune.training.loop import train
from tests import tiny
from tests.conformance import subjects
from tests.language import language_model
from tests.training.fakes import FakeLearner, FakeTask, Shaping, examples, settings


class Stopped(Exception):
    """The run was cut here, on every process."""


@knobs
class Altering(Shaping):
    """On the second process a tensor is changed after the step that `ALTER` names; nothing else tells of it."""

    def after_step(self, layers, progress):
        super().after_step(layers, progress)
        if progress.step == int(os.environ.get("ALTER", 0)) and os.environ["RANK"] == "1":
            with torch.no_grad():
                layers["adapter"].weight[0, 0] += 1e-6


class Breakable(FakeLearner):
    """Stops at a given forward, or gives a gradient that is no number on the second process."""

    stop_at = 0
    poison = False

    def forward(self, input_ids, attention_mask):
        logits = super().forward(input_ids, attention_mask)
        if self.forwards == self.stop_at:
            raise Stopped
        if self.poison and self.training:
            logits.register_hook(lambda gradient: gradient * float("nan"))
        return logits


def job(
    rank: int, *, dropout=0.0, resume=None, stop_at=0, poison=False, alter=0, unlike=None, **knobs: Any
) -> dict[str, Any]:
    """Trains on 27 rows (no multiple of anything); each process begins with other weights, the main one's must win.

    Args:
        alter: the step after which the second process's adapter is changed.
        unlike: knobs of the second process alone; `row`: a row that it reads otherwise.
    """
    os.environ["ALTER"] = str(alter)
    learner = Breakable(dropout=dropout, method=(Altering if alter else Shaping)(weight=0.01), seed=rank)
    learner.stop_at, learner.poison = stop_at, poison and rank == 1
    own = dict(unlike or {}) if rank == 1 else {}
    rows = examples(27)
    if "row" in own:
        rows[own.pop("row")]["labels"] = 2
    made: dict[str, Any] = {}
    try:
        config = settings(**{**knobs, **own})
        report = train(learner, FakeTask(), None, rows, examples(9, seed=5), config, resume=resume)
        made["losses"] = [row["loss"] for row in report.history if "loss" in row]
        made["best"], made["tokens"] = report.best, report.real_tokens
    except Exception as error:
        made["error"] = f"{type(error).__name__}: {error}"
    return {**made, "state": {name: tensor.tolist() for name, tensor in learner.state().items()}}


def cached(rank: int, **knobs: Any) -> dict[str, Any]:
    """Trains LoRA in the upper block of a tiny BERT on 27 rows; counts the rows that went through the lower block."""
    home = Backbone.open(tiny.backbone("bert", dropout=0.0))
    bank = Bank(home)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rank)
        adapter = Adapter.make(home, "a", subjects.method("lora", top=1), subjects.task("single"))
    bank.add(adapter)
    learner, block, seen = Learner(bank, adapter), home.model.encoder.layer[0], []
    plain = block.forward
    block.forward = lambda state, *args, **more: (seen.append(len(state)), plain(state, *args, **more))[1]
    task, tokenizer, rows = subjects.task("single"), subjects.tokenizer("bert"), subjects.examples("bert", "single", 27)
    report = train(learner, task, tokenizer, rows, rows[:5], settings(**knobs))
    return {
        "losses": [row["loss"] for row in report.history if "loss" in row],
        "state": {name: tensor.tolist() for name, tensor in learner.state().items()},
        "computed": sum(seen),
    }


def writing(rank: int, **knobs: Any) -> dict[str, Any]:
    """Trains LoRA on a tiny GPT-2 that writes 5 texts at each evaluation; counts those written by this process."""
    home = Backbone.open(language_model("gpt2", dropout=0.0))
    bank, task, tokenizer = Bank(home), subjects.task("causal"), subjects.tokenizer("gpt2")
    home.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = Adapter.make(home, "a", subjects.method("lora"), task)
    bank.add(adapter)
    rows, counted, plain = subjects.examples("gpt2", "causal", 8), [], writing_room.write_texts

    def counting(frame: Any, prompts: Any, **given: Any) -> Any:
        counted.append(len(prompts))
        return plain(frame, prompts, **given)

    writing_room.write_texts = counting
    try:
        report = train(Learner(bank, adapter), task, tokenizer, rows, rows[:5], settings(**knobs))
    finally:
        writing_room.write_texts = plain
    return {"scores": [row["eval_chrf"] for row in report.history if "eval_chrf" in row], "written": counted}


def kind_of(knobs: dict[str, Any]) -> Any:
    """The function that does a job."""
    return cached if "cache_trunk" in knobs else writing if "metrics" in knobs else job


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    results = {name: kind_of(knobs)(rank, **knobs) for name, knobs in json.loads(sys.argv[2]).items()}
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()
