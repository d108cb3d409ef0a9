"""A batch in which every row has an adapter of its own, over the bare backbone on the same batch.

| arm | what runs |
|---|---|
| bare | the backbone, no adapter anywhere |
| petune | the same call inside `with model.routed([name of each row])`; what the route costs is in the time |
| bank | the ten lines below: gather, two `bmm`, add, on forward hooks |
| peft | `model(..., adapter_names=[name of each row])` around the same backbone |
| petune, heads | `model(..., route=[name of each row])`: the heads of all too, which peft cannot do in one batch |

All run without gradients, in eval mode, in float32, on random token ids without padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from benchmarks.serving import making
from benchmarks.serving.claims import at_least, at_most, hold
from benchmarks.serving.settings import Settings
from benchmarks.serving.timing import interleaved, summary
from petune import AdaptedModel
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone

ROUTED_OVER_BARE = {
    ("query,value", 32): 1.04,
    ("all linear", 32): 1.12,
    ("all linear", 8): 1.16,
    ("all linear", 1): 1.32,
}
PEFT_OVER_PETUNE = {("all linear", 1): 8.0, ("all linear", 8): 4.5, ("all linear", 32): 2.4, ("query,value", 1): 4.0}
SOLO, OTHERS = 1e-5, 1e-4
"""Largest differences between petune's routed rows and its solo runs, and between petune and the other arms."""


def run(settings: Settings) -> dict[str, Any]:
    """Every cell of targets x tokens, and what the issue asks of them."""
    cells = []
    for targets in making.TARGETS:
        arms = Arms(settings, targets)
        cells += [arms.cell(length) for length in settings.lengths]
    return {"cells": cells, "claims": claims(cells)}


class Arms:
    """The models of one choice of targets.

    Args:
        targets: a key of `making.TARGETS`.
    """

    def __init__(self, settings: Settings, targets: str) -> None:
        self.settings, self.targets = settings, targets
        self.bare = making.twin(AutoModel.from_pretrained(settings.encoder))
        home = Backbone.open(making.twin(self.bare))
        adapters = making.random_adapters(home, settings.rows, making.TARGETS[targets])
        self.names = [adapter.name for adapter in adapters]
        self.petune: AdaptedModel = making.petune_model(making.twin(self.bare), adapters)
        self.peft: peft.PeftModel = making.peft_model(making.twin(self.bare), adapters)
        self.bank = Bank(making.twin(self.bare), adapters)

    def cell(self, length: int) -> dict[str, Any]:
        """Times all arms on rows of one length, after their answers were compared."""
        inputs = token_rows(self.bare, self.settings.rows, length)
        arms: dict[str, Callable[[], Any]] = {
            "bare": lambda: self.bare(**inputs),
            "petune": lambda: routed(self.petune, self.names, inputs),
            "bank": lambda: self.bank(torch.arange(len(self.names)), inputs),
            "peft": lambda: self.peft(**inputs, adapter_names=self.names),
            "petune, heads": lambda: self.petune(**inputs, route=self.names),
        }
        with torch.no_grad():
            differences = self.differences(arms, inputs)
            seconds = interleaved(arms, self.settings.repeats, self.settings.at_least)
        told = {name: summary(figures) for name, figures in seconds.items()}
        over_bare = {name: arm["median"] / told["bare"]["median"] for name, arm in told.items()}
        where = {"targets": self.targets, "tokens": length, "rows": self.settings.rows}
        return {**where, "milliseconds": told, "over_bare": over_bare, "differences": differences}

    def differences(self, arms: dict[str, Callable[[], Any]], inputs: dict[str, Tensor]) -> dict[str, float]:
        """Largest differences of the last hidden states; also of the logits of the arm with heads."""
        found = {name: call() for name, call in arms.items()}
        rows, heads = found["petune"].last_hidden_state, found["petune, heads"].logits
        solo = [self.petune(**one_row(inputs, row), route=name) for row, name in enumerate(self.names)]
        alone = [routed(self.petune, name, one_row(inputs, row)) for row, name in enumerate(self.names)]
        effect = apart(rows, found["bare"].last_hidden_state)
        assert effect > 100 * OTHERS, f"the adapters change next to nothing ({effect:.1e})"
        return {
            "petune and bare": effect,
            "petune and solo": hold(
                "petune's rows and their solo runs", apart(rows, torch.cat([o.last_hidden_state for o in alone])), SOLO
            ),
            "heads and solo": hold(
                "petune's logits and their solo runs",
                apart(torch.stack(heads), torch.cat([o.logits for o in solo])),
                SOLO,
            ),
            **{
                f"petune and {other}": hold(f"petune and {other}", apart(rows, found[other].last_hidden_state), OTHERS)
                for other in ("bank", "peft")
            },
        }


class Bank:
    """The ten-line prototype: every adapter's matrices in one tensor per site, gathered for the rows of the batch."""

    def __init__(self, model: PreTrainedModel, adapters: list[Adapter]) -> None:
        self.model, self.slots = model, torch.empty(0)
        for path, layer in adapters[0].body.layers.items():
            stacks = [
                torch.stack([adapter.tensors()[path][name] for adapter in adapters]) for name in ("lora_A", "lora_B")
            ]
            hook = partial(self.act, stacks[0].transpose(1, 2).contiguous(), stacks[1].transpose(1, 2) * layer.scale)
            model.get_submodule(path).register_forward_hook(hook)

    def act(self, a: Tensor, b: Tensor, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        """a (N, d_in, R), b (N, R, d_out): the new output of one linear map."""
        return y + torch.bmm(torch.bmm(args[0], a[self.slots]), b[self.slots])

    def __call__(self, slots: Tensor, inputs: dict[str, Tensor]) -> Any:
        """One forward; `slots` (B,) says which adapter serves which row."""
        self.slots = slots
        return self.model(**inputs)


def routed(model: AdaptedModel, route: list[str] | str | None, inputs: dict[str, Tensor]) -> Any:
    """The backbone's output under a route, no heads."""
    with model.routed(route):
        return model.backbone.model(**inputs)


def token_rows(model: PreTrainedModel, rows: int, length: int) -> dict[str, Tensor]:
    """The same random pieces each time, all of them real."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, int(model.config.vocab_size), (rows, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def one_row(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch as a batch."""
    return {name: value[row : row + 1] for name, value in inputs.items()}


def apart(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference."""
    return float((first - second).abs().max())


def claims(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measured figures beside their targets; a cell that was not measured claims nothing."""
    over = {(cell["targets"], cell["tokens"]): cell["over_bare"] for cell in cells}
    made = []
    for (targets, tokens), target in ROUTED_OVER_BARE.items():
        if found := over.get((targets, tokens)):
            where = f"{targets}, S = {tokens}"
            made.append(at_most(f"routed over bare backbone, {where}", target, found["petune"]))
            made.append(at_least(f"10-line bank over petune, {where}", 1.0, found["bank"] / found["petune"]))
    for (targets, tokens), target in PEFT_OVER_PETUNE.items():
        if found := over.get((targets, tokens)):
            what = f"peft over petune, routed, {targets}, S = {tokens}"
            made.append(at_least(what, target, found["peft"] / found["petune"]))
    return made
