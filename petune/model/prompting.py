"""Soft prompts in the rows of a call: where they are put, and what comes out without them.

    decoder   [pad pad a b c]      ->   [pad pad P P a b c]        beside the text, on whichever side is padded
    encoder   [CLS a b SEP pad]    ->   [CLS P P a b SEP pad]      classifiers read the first piece

The pieces that stand for a prompt are put in at the door of a call, never by a task: masks, positions and key-value
caches then treat them as pieces. States and logits are given back at the places of the text, so labels need no shift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from petune.errors import BackboneError, ConfigError
from petune.methods.base import Method
from petune.methods.prompt_tuning import FIRST
from petune.model.routing import Frame
from petune.model.shell import Shell
from petune.tasks._packing import STARTS

_ENCODERS = transformers.MODEL_FOR_MASKED_LM_MAPPING
FLAT = ("start_logits", "end_logits")
"""What of an output is (B, T) and belongs to the places of the text; (B, C) looks the same."""


@dataclass(frozen=True)
class Longer:
    """A batch with its prompts.

    Args:
        inputs: (B, T + P) each.
        places: (B, T) where the pieces of the text are now.
        lengths: P of each row.
        decodes: whether an encoder-decoder's output is its decoder's, which has no prompt.
    """

    inputs: dict[str, Any]
    places: Tensor
    lengths: list[int]
    decodes: bool

    @property
    def width(self) -> int:
        """T + P of the batch."""
        return int(self.inputs["attention_mask"].shape[1])

    def moved(self, at: Tensor) -> Tensor:
        """(N,) places b * T + t of the text -> where they are now."""
        rows = torch.div(at, self.places.shape[1], rounding_mode="floor")
        return rows * self.width + self.places.flatten()[at]

    def restored(self, output: Any) -> Any:
        """An output at the places of the text: every tensor (B, T + P, ...) is (B, T, ...)."""
        if self.decodes:
            return output
        return type(output)(**{name: self._without(name, value) for name, value in output.items()})

    def unprompted(self, written: Any, asked: Tensor) -> Any:
        """What a decoder wrote, behind the pieces that it was asked for (B, T) in place of those with prompts."""
        if self.decodes:
            return written
        if not isinstance(written, Tensor):
            written.sequences = self.unprompted(written.sequences, asked)
            return written
        front = asked.repeat_interleave(len(written) // len(asked), 0)
        return torch.cat([front, written[:, self.width :]], dim=1)

    def _without(self, name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._without(name, each) for each in value)
        if not isinstance(value, Tensor) or value.shape[:2] != (len(self.places), self.width):
            return value
        if value.dim() == 2 and name in FLAT:
            return value.gather(1, self.places)
        if value.dim() != 3:
            return value
        return value.gather(1, self.places.unsqueeze(-1).expand(-1, -1, value.shape[-1]))


def lengthened(frame: Frame | None, shell: Shell, inputs: Mapping[str, Any], *, writes: bool = False) -> Longer | None:
    """A batch with the prompts of the adapters that serve its rows; None: none of them has any.

    Args:
        shell: that calls the backbone.
        inputs: (B, T) pieces, their mask, and what else belongs to them.
        writes: a decoder goes on from the last place, so what evens prompts of different lengths out comes first.

    Raises:
        ConfigError: packed texts.
    """
    groups = frame.groups if frame is not None and frame.active else ()
    if not any(group.adapter.method.positions() for group in groups):
        return None
    if STARTS in inputs:
        raise ConfigError(
            "Soft prompts do not go with packed texts.",
            expected="Several of those share a row, and a prompt stands in front of one.",
            fix="Drop packing=True, or use another method.",
        )
    ids: Tensor = inputs["input_ids"]
    rows, width = ids.shape
    lengths = [0] * rows
    for adapter, some in groups:
        for row in range(rows) if some is None else some.tolist():
            lengths[row] = adapter.method.positions()
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    own = torch.tensor(lengths, device=ids.device).unsqueeze(1)  # (B, 1)
    most = max(lengths)
    first = (mask != 0).long().argmax(1, keepdim=True)  # of the text, (B, 1)
    encodes = type(shell.backbone.model.config) in _ENCODERS and not getattr(shell.model.config, "is_decoder", False)
    cut = first + 1 if encodes else first  # the prompt stands before this column
    # Only rows that are padded on the left, or are to be gone on with, keep their ends at the last place.
    ahead = most - own if writes or bool((mask[:, 0] == 0).any()) else torch.zeros_like(own)
    columns = torch.arange(width, device=ids.device).expand(rows, -1)
    places = columns + ahead + own * (columns >= cut)
    steps = torch.arange(most, device=ids.device).expand(rows, -1)
    # Steps beyond a row's own prompt fall on a spare column, which is cut off again.
    prompts = torch.where(steps < own, cut + ahead + steps, width + most)

    def spread(values: Tensor, filler: int, prompt: Tensor) -> Tensor:
        wide = values.new_full((rows, width + most + 1), filler).scatter(1, places, values)
        return wide.scatter(1, prompts, prompt.to(values.dtype))[:, :-1]

    pad = shell.backbone.pad_token_id or 0
    made = dict(inputs)
    made["input_ids"] = spread(ids, pad, FIRST - steps)
    made["attention_mask"] = spread(mask, 0, torch.ones_like(steps))
    if "token_type_ids" in inputs:
        made["token_type_ids"] = spread(inputs["token_type_ids"], 0, torch.zeros_like(steps))
    if "position_ids" in inputs:
        start = inputs["position_ids"].expand(rows, -1).gather(1, first)
        made["position_ids"] = (made["attention_mask"].long().cumsum(1) - 1).clamp(min=0) + start
    decodes = bool(getattr(shell.model.config, "is_encoder_decoder", False))
    if decodes and "decoder_input_ids" not in inputs:
        made.setdefault("decoder_labels", ids)  # without targets the decoder reads the text, which is without prompts
    return Longer(made, places, lengths, decodes)


def refuse_prompt(method: Method, shell: Shell) -> None:
    """Raises BackboneError where a soft prompt cannot be right."""
    if not method.positions():
        return
    both = getattr(shell.model.config, "is_encoder_decoder", False)
    if both and shell.model.get_output_embeddings() is None:
        raise BackboneError(
            f"A soft prompt cannot be used for a {type(shell.model).__name__}.",
            expected="Its decoder reads the text once more, and the head looks for the end of the one in the other.",
            fix="Use 'prefix' or 'lora', or a task that writes, such as seq2seq-lm.",
        )


class Streamed:
    """A streamer that is shown the prompt as the caller gave it."""

    def __init__(self, inner: Any, ids: Tensor) -> None:
        self._inner, self._ids = inner, [ids]

    def put(self, value: Tensor) -> None:
        """The prompt first, then what is written."""
        self._inner.put(self._ids.pop().cpu() if self._ids else value)

    def end(self) -> None:
        """Nothing follows."""
        self._inner.end()
