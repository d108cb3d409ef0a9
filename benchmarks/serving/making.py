"""What the arms are made of: the same random LoRA adapters in petune, in peft and on disk, on the same weights.

Every arm has module objects of its own, so that no arm's hooks or wrappers slow another, but all of them read the very
same backbone tensors in memory, so that no arm is luckier with where its weights lie.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import PreTrainedModel

from petune import AdaptedModel, SequenceClassification
from petune.methods.lora import LoRA
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.probe import probe_inputs
from petune.storage import shelf
from petune.tasks.base import Task

RANK = 8
TARGETS = {"query,value": LoRA(rank=RANK, targets=("query", "value")), "all linear": LoRA(rank=RANK)}
SPREAD = 0.02
"""Standard deviation of random B and heads; with the zeros of a fresh adapter no wrong answer would show."""

SENTIMENT = SequenceClassification(
    text="text", label="label", problem_type="single_label_classification", labels=("negative", "positive")
)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Other modules around the same parameters and buffers, frozen and in eval mode."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


def random_adapters(backbone: Backbone, count: int, method: LoRA, task: Task | None = None) -> list[Adapter]:
    """`count` adapters named a0, a1, ..., each with weights of its own; the same ones each time.

    Args:
        task: with its labels; None: sentiment with two labels.
    """
    with torch.random.fork_rng(devices=[]):
        made = [Adapter.make(backbone, f"a{number}", method, task or SENTIMENT) for number in range(count)]
    for number, adapter in enumerate(made):
        draw(adapter, number)
    return made


@torch.no_grad()
def draw(adapter: Adapter, number: int) -> None:
    """Gives a LoRA adapter its random weights, those of this number."""
    generator = torch.Generator().manual_seed(number)
    for named in adapter.tensors().values():
        a, b = named["lora_A"], named["lora_B"]
        a.normal_(std=a.shape[1] ** -0.5, generator=generator)
        b.normal_(std=SPREAD, generator=generator)
    for tensor in adapter.head().values():
        tensor.normal_(std=SPREAD, generator=generator)


def petune_model(model: PreTrainedModel, adapters: Iterable[Adapter], tokenizer: Any = None) -> AdaptedModel:
    """All of them resident in petune."""
    made = AdaptedModel(model, tokenizer)
    for adapter in adapters:
        made.add(adapter.name, adapter)
    return made


def peft_model(model: PreTrainedModel, adapters: Iterable[Adapter]) -> peft.PeftModel:
    """The layers of all of them in peft, without heads; the first one is active. The model is changed by it."""
    first, *others = adapters
    made = peft.PeftModel(model, peft_config(first), adapter_name=first.name)
    for adapter in others:
        made.add_adapter(adapter.name, peft_config(adapter))
    for adapter in (first, *others):
        copy_into_peft(made, adapter, adapter.name)
    return made.eval()


def peft_config(adapter: Adapter) -> peft.LoraConfig:
    """peft's configuration of the same layers at the same modules."""
    method = adapter.method
    assert isinstance(method, LoRA)
    paths = [site.path for site in adapter.body.sites]
    alpha = method.scale(method.rank) * method.rank
    return peft.LoraConfig(r=method.rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=paths, inference_mode=True)


def copy_into_peft(model: peft.PeftModel, adapter: Adapter, name: str) -> None:
    """Gives peft's adapter `name` the weights of petune's."""
    # petune's paths begin inside the base model; peft's model may be one with a head around that.
    inside = model.base_model.model
    prefix = "" if inside.base_model is inside else f"{inside.base_model_prefix}."
    state = {
        f"base_model.model.{prefix}{path}.{short}.weight": tensor
        for path, named in adapter.tensors().items()
        for short, tensor in named.items()
    }
    left = peft.set_peft_model_state_dict(model, state, adapter_name=name)
    assert not left.unexpected_keys, left.unexpected_keys


def put(adapters: Iterable[Adapter], home: AdaptedModel, place: Path) -> list[Path]:
    """Each adapter as a folder of petune's, probe included, written as `Tuner.save` writes it."""
    folders, probe = [], probe_inputs(home.backbone)
    for adapter in adapters:
        home.add("probed", adapter)
        with torch.no_grad():
            answers = home(**probe, route="probed").logits
        home.remove("probed")
        folders.append(shelf.put(place / adapter.name, adapter, answers.float(), None, []))
    return folders


def put_many(home: AdaptedModel, count: int, method: LoRA, place: Path) -> None:
    """The folders of `count` random adapters, drawn anew into one that is made once."""
    (adapter,) = random_adapters(home.backbone, 1, method)
    for number in range(count):
        draw(adapter, number)
        put([adapter.renamed(f"a{number}")], home, place)


def put_in_peft(adapters: Iterable[Adapter], model: PreTrainedModel, place: Path) -> list[Path]:
    """Each adapter as a folder of peft's, by `save_pretrained`; layers only, there is no head."""
    made, folders = None, []
    for adapter in adapters:
        made = made or peft.PeftModel(model, peft_config(adapter))
        copy_into_peft(made, adapter, "default")
        made.save_pretrained(place / adapter.name)
        folders.append(place / adapter.name)
    return folders
