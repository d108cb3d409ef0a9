"""What a shell is assembled from: a task's class without memory, the shared modules, and what the checkpoint lacked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from petune.errors import BackboneError
from petune.model.backbone import Backbone, quiet, shell_config

BARE = "AutoModel"
"""The class that is the backbone itself: what it gives are hidden states."""
_ENCODERS = transformers.MODEL_FOR_MASKED_LM_MAPPING
"""Architectures that learn by filling gaps; transformers would run them as decoders, which none was trained as."""


def on_meta(backbone: Backbone, auto_class: str, changes: dict[str, Any]) -> PreTrainedModel:
    """The task's class without memory."""
    config = shell_config(backbone, changes)
    if auto_class == "AutoModelForCausalLM" and type(config) in _ENCODERS and not getattr(config, "is_decoder", False):
        raise BackboneError(
            f"A {backbone.model_type!r} reads a text from both sides, so it cannot write one.",
            expected="The task needs a decoder such as GPT-2, Llama or Qwen.",
            fix="Choose another backbone; for T5 and BART, task='seq2seq-lm'.",
        )
    if auto_class == BARE and getattr(config, "is_encoder_decoder", False):
        raise BackboneError(
            f"A {backbone.model_type!r} has hidden states for what it reads and others for what it writes.",
            expected="The task needs a backbone that has one for each piece: an encoder, or a decoder alone.",
            fix="Choose another backbone.",
        )
    try:
        with quiet(), torch.device("meta"):
            model: PreTrainedModel = getattr(transformers, auto_class).from_config(config)
    except ValueError as error:
        task = auto_class.removeprefix("AutoModelFor")
        raise BackboneError(
            f"transformers has no {task} model for {backbone.model_type!r}.",
            expected="The task needs a class for this architecture.",
            fix="Choose another task or another backbone.",
        ) from error
    return model.eval()


def graft(base: nn.Module, shared: nn.Module) -> None:
    """Puts the shared modules into the shell's base model; parts that only the shell has stay its own."""
    for name in list(base._modules):
        if name in shared._modules:
            base._modules[name] = shared._modules[name]
    for name in set(base._parameters) & set(shared._parameters):
        base._parameters[name] = shared._parameters[name]
    for name in set(base._buffers) & set(shared._buffers):
        base._buffers[name] = shared._buffers[name]


def largest(base: nn.Module, missing: set[str]) -> Iterator[tuple[str, nn.Module]]:
    """The largest modules all of whose parameters the checkpoint lacked."""
    taken: list[str] = []
    for path, module in base.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
        if (
            path
            and names
            and all(name in missing for name in names)
            and not any(path.startswith(t + ".") for t in taken)
        ):
            taken.append(path)
            yield path, module


class OneStack(nn.Module):
    """The encoder of an encoder-decoder, under the name that it has there."""

    def __init__(self, encoder: Any, config: Any) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the encoder gives."""
        return self.encoder(*args, **kwargs)
