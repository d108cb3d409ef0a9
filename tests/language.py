"""Tiny language models of every family that writes, rows for them, and banks of adapters on them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.tasks.base import Task
from petune.tasks.causal_lm import CausalLM
from petune.tasks.seq2seq_lm import Seq2SeqLM
from tests import tiny
from tests.conformance.subjects import method, shake

DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "opt")
PAIRED = ("t5", "bart", "marian")
"""Families with an encoder and a decoder."""
WRITERS = (*DECODERS, *PAIRED)

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "wider": ("lora", {"rank": 7}),
    "bottleneck": ("bottleneck", {}),
    "prefix": ("prefix", {}),
    "long": ("prefix", {"length": 7}),
}
"""Name of an adapter in `bank` -> its method and knobs."""


def language_model(family: str, seed: int = 0, *, untied: bool = False, **changes: Any) -> PreTrainedModel:
    """A language model with random weights, its head included, in eval mode.

    Args:
        untied: the head has weights of its own, also where the family's configuration ties them (T5 1.1).
    """
    paired = family in PAIRED or family in tiny.WRITE_ONLY
    auto = transformers.AutoModelForSeq2SeqLM if paired else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: PreTrainedModel = auto.from_config(tiny.config(family, **changes)).eval()
        if untied:
            made.lm_head.weight = torch.nn.Parameter(torch.randn_like(made.lm_head.weight) * 0.2)
        for buffer in made._buffers.values():
            if buffer is not None:
                buffer.normal_()  # BART's bias on its logits, which must reach the adapters' models as well
    return made


def task(family: str, **knobs: Any) -> Task:
    """A task that has learnt its columns."""
    if family in PAIRED:
        return Seq2SeqLM(source="source", target="target", **knobs)
    return CausalLM(prompt="prompt", completion="completion", **knobs)


def rows(family: str, n: int = 16) -> list[dict[str, Any]]:
    """Rows whose answer is the label of the text."""
    names = ("source", "target") if family in PAIRED else ("prompt", "completion")
    return [dict(zip(names, (row["text"], row["label"]), strict=True)) for row in tiny.rows(n)]


def bank(model: PreTrainedModel, *, names: tuple[str, ...] = tuple(METHODS), live: bool = False) -> Bank:
    """Shaken adapters of several methods on one language model, seated or (live) as in training."""
    family = str(model.config.model_type)
    made = Bank(Backbone.open(model))
    for seed, name in enumerate(names):
        recipe, knobs = METHODS[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapter = Adapter.make(made.backbone, name, method(recipe, **knobs), task(family))
            shake(adapter)
        (made.add if live else made.seat)(adapter)
    return made


def prompts(lengths: tuple[int, ...], seed: int = 3) -> list[Tensor]:
    """Random pieces, none of them special."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(5, tiny.VOCABULARY - 10, (length,), generator=draw) for length in lengths]


def padded(model: PreTrainedModel, texts: list[Tensor]) -> dict[str, Tensor]:
    """A batch: padded on the left for decoders, on the right for encoders."""
    width, left = max(map(len, texts)), not model.config.is_encoder_decoder
    ids = torch.full((len(texts), width), model.config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        at = slice(width - len(text), width) if left else slice(0, len(text))
        ids[row, at], mask[row, at] = text, 1
    return {"input_ids": ids, "attention_mask": mask}
