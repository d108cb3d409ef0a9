"""Greedy generation for rows that each have an adapter of their own, by the real decoder, tokens per second.

| arm | what runs |
|---|---|
| petune | `model.generate(texts, adapters=[name of each row])`, all rows at once |
| solo | the same rows one after another, each in a call of its own |
| peft | `generate(..., adapter_names=[name of each row])` of the same decoder |
| merged | one of the adapters merged into the weights, all rows at once: no adapter is left to compute |

Texts go in and texts come out in every arm. Every row generates the same number of tokens: no arm may stop early.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks import real_data
from benchmarks.serving import making
from benchmarks.serving.claims import at_least
from benchmarks.serving.settings import Settings
from benchmarks.serving.timing import interleaved, summary
from petune.lookup import find
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone

TARGETS = {"solo": 4.0, "peft": 1.5, "merged": 0.8}
MOST_REPEATS = 9
PARTED = 2
"""Rows in which peft may go another way: at a tie of two tokens the last bit decides."""


def run(settings: Settings) -> dict[str, Any]:
    """All arms in turn, after their texts were compared."""
    with tempfile.TemporaryDirectory() as place:
        folder = settings.decoder or str(real_data.decoder_folder(Path(place)))
        bare = making.twin(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    arms = Arms(settings, bare, tokenizer)
    calls = arms.calls()
    with torch.no_grad():
        same = compared({name: call() for name, call in calls.items() if name != "merged"})
        seconds = interleaved(calls, min(settings.repeats, MOST_REPEATS), settings.at_least)
    tokens = settings.generating * settings.new_tokens
    told = {name: summary(figures) for name, figures in seconds.items()}
    per_second = {name: tokens / arm["median"] * 1e3 for name, arm in told.items()}
    where = {"rows": settings.generating, "adapters": settings.generating, "new_tokens": settings.new_tokens}
    cells = [{**where, "milliseconds": told, "tokens_per_second": per_second, "rows_as_peft": same}]
    return {"cells": cells, "claims": claims(cells)}


class Arms:
    """The models, on one set of weights."""

    def __init__(self, settings: Settings, bare: PreTrainedModel, tokenizer: Any) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        rows = real_data.questions()["test"][: settings.generating]
        self.texts = [row["text"] for row in rows]
        home = Backbone.open(making.twin(bare))
        task = find("tasks", "causal-lm")(text="text")
        adapters = making.random_adapters(home, settings.generating, making.TARGETS["all linear"], task)
        self.names = [adapter.name for adapter in adapters]
        self.petune: Any = making.petune_model(making.twin(bare), adapters, tokenizer)
        self.peft = making.peft_model(making.twin(bare), adapters)
        self.merged = merged(bare, adapters[0])

    def calls(self) -> dict[str, Callable[[], list[str]]]:
        """What is timed; each gives the generated texts."""
        count = self.settings.new_tokens
        knobs = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        return {
            "petune": lambda: self.petune.generate(self.texts, adapters=self.names, **knobs),
            "solo": lambda: [
                self.petune.generate([text], adapters=[name], **knobs)[0]
                for text, name in zip(self.texts, self.names, strict=True)
            ],
            "peft": lambda: self.plain(self.peft, **knobs, adapter_names=self.names),
            "merged": lambda: self.plain(self.merged, **knobs),
        }

    def plain(self, model: Any, **knobs: Any) -> list[str]:
        """Texts through `generate` of transformers or peft."""
        inputs = self.tokenizer(self.texts, return_tensors="pt", padding=True)
        made = model.generate(**inputs, pad_token_id=self.tokenizer.pad_token_id, **knobs)
        return self.tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def merged(bare: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """A decoder of its own weights with one adapter added to them."""
    made = making.twin(bare)
    for path, layer in adapter.body.layers.items():
        module: Any = made.base_model.get_submodule(path)
        module.weight = torch.nn.Parameter(module.weight + layer.delta(), requires_grad=False)
    return made


def compared(texts: dict[str, list[str]]) -> int:
    """In how many rows peft generates the same; routed rows and solo runs must all be the same.

    Raises:
        AssertionError: they are not.
    """
    assert texts["petune"] == texts["solo"], "routed rows are not what the solo runs generate"
    same = sum(ours == theirs for ours, theirs in zip(texts["petune"], texts["peft"], strict=True))
    assert same >= len(texts["peft"]) - PARTED, f"peft generates the same in {same} of {len(texts['peft'])} rows only"
    return same


def claims(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """petune's tokens per second over those of every other arm."""
    cell = cells[0]
    told = cell["tokens_per_second"]
    what = f"routed generation, {cell['rows']} rows, {cell['adapters']} adapters: tokens/s over"
    return [at_least(f"{what} {arm}", target, told["petune"] / told[arm]) for arm, target in TARGETS.items()]
