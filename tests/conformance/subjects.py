"""What the laws are tried on: a backbone, its bank, and one adapter per case whose every tensor has an effect."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from petune.data.sources import read
from petune.lookup import find
from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.learner import Learner
from petune.model.running import run
from petune.tasks.base import Example, Task
from tests import tiny
from tests.covering import Case
from tests.kinds import KINDS

SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "adalora": {"rank": 2, "init_rank": 4},
    "bottleneck": {"width": 8},
    "prefix": {"length": 4},
    "prompt-tuning": {"length": 4},
}
"""Knobs that fit a 32-wide backbone; a method that is not here takes its defaults."""


def method(name: str, **knobs: Any) -> Method:
    """A method by name, small."""
    return find("methods", name)(**{**SMALL.get(name, {}), **knobs})  # type: ignore[no-any-return]


READ = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "input_values", "input_features")
"""What a bare backbone takes of a batch."""
WRITTEN = tuple(name for name, kind in KINDS.items() if kind.task().generates)
"""Kinds of tasks whose answers the model writes."""
HEADLESS = (*WRITTEN, "likeness", "partners", "prompt_class")
"""Kinds of tasks without a head of the adapter's own."""


def rows(kind: str, n: int = 8) -> list[dict[str, Any]]:
    """Rows of a kind of task, of different lengths."""
    return KINDS[kind].rows(n)


def blank_task(kind: str) -> Task:
    """A task that has learnt nothing yet; what is written is kept short."""
    return KINDS[kind].task()


@cache
def task(kind: str) -> Task:
    """A task that has learnt its labels: 2 classes, 3 labels, a number, or 5 tags; or its columns."""
    return blank_task(kind).learn(read(rows(kind, 16)))


@cache
def tokenizer(family: str, kind: str = "single") -> Any:
    """The family's tokenizer, or what else a kind of task reads with; made once."""
    return KINDS[kind].reads(family)


def examples(family: str, kind: str, n: int = 5) -> list[Example]:
    """Encoded rows of different lengths, the second much shorter than the first."""
    table = read(rows(kind, n))
    return task(kind).encode(table, tokenizer(family, kind), longest=64, labelled=True).examples


def batch(family: str, kind: str, n: int = 5) -> dict[str, Tensor]:
    """A padded batch of rows, as the backbone takes them."""
    return task(kind).collate(examples(family, kind, n), tokenizer(family, kind)).inputs


class Subject(NamedTuple):
    """One case, alive."""

    bank: Bank
    adapter: Adapter
    inputs: dict[str, Tensor]

    @property
    def backbone(self) -> Backbone:
        """The shared backbone."""
        return self.bank.backbone

    @torch.no_grad()
    def logits(self, name: str | None = None, inputs: dict[str, Tensor] | None = None) -> Tensor:
        """The logits of one adapter on the batch."""
        if self.adapter.method.residence == "private":
            return Learner(self.bank, self.adapter)(**(inputs or self.inputs))
        wanted = name or self.adapter.name
        given = inputs or self.inputs
        return self.adapter.task.logits(run(self.bank, self.bank.frame(wanted), given), given)

    @torch.no_grad()
    def bare(self) -> Tensor:
        """What the bare backbone makes of the batch."""
        return hidden(self.bank, self.inputs)


@torch.no_grad()
def hidden(bank: Bank, inputs: dict[str, Tensor]) -> Tensor:
    """The bare backbone's last hidden state; sequence-to-sequence models read the batch on both sides."""
    known = {key: value for key, value in inputs.items() if key in READ}
    if "input_ids" in known:
        known["input_ids"] = known["input_ids"].clamp_min(0)  # pieces of an adapter's own are unknown to it
    if bank.backbone.model_type == "whisper":
        known["decoder_input_ids"] = inputs.get("decoder_labels", torch.ones(1, 1)).long().clamp(min=0).expand(5, -1)
    if bank.backbone.model_type in ("t5", "marian"):
        known["decoder_input_ids"] = known["input_ids"]
    found: Tensor = bank.backbone.model(**known).last_hidden_state
    return found


def open_backbone(family: str, **changes: Any) -> Backbone:
    """A fresh backbone that knows its pad piece, as one that a Tuner opened."""
    made = Backbone(tiny.backbone(family, **changes))
    if family in tiny.FAMILIES:
        made.pad_token_id = getattr(tokenizer(family), "pad_token_id", None)
    return made


def add(
    bank: Bank, name: str, recipe: Method, kind: str, *, shaken: bool = True, seed: int = 5, seated: bool | None = None
) -> Adapter:
    """A resident adapter; shaken, so that what starts at zero has an effect too.

    Args:
        seated: True: as one that serves; False: what serves, but as one in training; None: as one in training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = Adapter.make(bank.backbone, name, recipe, task(kind))
        if shaken:
            shake(adapter)
    if recipe.residence != "private":
        (bank.seat if seated else bank.add)(adapter if seated is None else adapter.settled())
    return adapter


@torch.no_grad()
def shake(adapter: Adapter, by: float = 0.1) -> None:
    """Adds noise to every parameter of an adapter's layers."""
    for parameter in adapter.body.module().parameters():
        parameter.add_(torch.randn(parameter.shape) * by)


def subject(case: Case, *, shaken: bool = True, n: int = 5, **changes: Any) -> Subject:
    """A case with its adapter, resident under the name `mine`."""
    bank = Bank(open_backbone(case.family, **changes))
    adapter = add(bank, "mine", method(case.method), case.task, shaken=shaken)
    return Subject(bank, adapter, batch(case.family, case.task, n))


def real(logits: Tensor, inputs: dict[str, Tensor], kind: str) -> Tensor:
    """The logits that mean something: those of pieces that are no padding, for tags and for what is written."""
    return KINDS[kind].real(logits, inputs)


def differ(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference."""
    return float((first.detach().float() - second.detach().float()).abs().max())


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    """Clones of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def ids(cases: Sequence[Case]) -> list[str]:
    """Readable test names."""
    return [str(case) for case in cases]
