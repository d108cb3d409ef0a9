"""The probe: seeded token ids and the logits an adapter gives for them. No user's row is ever in it.

Saved with an adapter, it is replayed by merging, exporting and `load(check=True)`, and says by how much they differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.modes import evaluating
from petune.model.prompting import lengthened
from petune.model.routing import Frame, entered

ROWS, PIECES, SEED = 2, 12, 20240607
SAMPLES = 4000
"""Of a wave: a quarter of a second, more than any convolution is wide."""
WIDE, KEPT = 512, 64
"""Of more logits than the first a manifest keeps the second number."""

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest accepted logit difference, relative to logits of size 1, by the backbone's type."""


def probe_inputs(backbone: Backbone) -> dict[str, Tensor]:
    """Two rows from a fixed seed.

    Of a backbone that reads texts: (2, 12) token ids, each row ending in the end-of-sequence piece, and a mask of ones.
    Else noise: images (2, 3, H, W), spectra (2, bins, frames), waves (2, samples), and pieces for a decoder.
    """
    config = backbone.model.config
    generator = torch.Generator().manual_seed(SEED)
    shape = _shape_of_noise(backbone.model.main_input_name, config)
    if shape is not None:
        made = {backbone.model.main_input_name: torch.randn(ROWS, *shape, generator=generator).to(backbone.device)}
        if getattr(config, "is_encoder_decoder", False):
            made["decoder_input_ids"] = torch.full((ROWS, 1), config.decoder_start_token_id, device=backbone.device)
        return made
    special = {config.pad_token_id, config.eos_token_id, config.bos_token_id}
    allowed = torch.tensor([index for index in range(int(config.vocab_size)) if index not in special])
    ids = allowed[torch.randint(len(allowed), (ROWS, PIECES), generator=generator)]
    if isinstance(config.eos_token_id, int):
        ids[:, -1] = config.eos_token_id  # BART and T5 pool there
    return {"input_ids": ids.to(backbone.device), "attention_mask": torch.ones_like(ids).to(backbone.device)}


def _shape_of_noise(reads: str, config: Any) -> tuple[int, ...] | None:
    """The shape of one row of what is no text; None: it is text."""
    if reads == "pixel_values":
        size = config.image_size
        high, wide = size if isinstance(size, list | tuple) else (size, size)
        return (config.num_channels, high, wide)
    if reads == "input_features":
        return (config.num_mel_bins, 2 * config.max_source_positions)
    return (SAMPLES,) if reads == "input_values" else None


@torch.no_grad()
def replay(adapter: Adapter, frame: Frame | None) -> Tensor:
    """The adapter's logits on the probe, float32 on the CPU, with every module in eval mode."""
    shell = adapter.shell
    with evaluating(*adapter.modules()), entered(frame):
        inputs = probe_inputs(shell.backbone)
        longer = lengthened(frame, shell, inputs)
        output = shell.model(**shell.inputs(inputs if longer is None else longer.inputs))
        logits = adapter.task.logits(output if longer is None else longer.restored(output), inputs)
    return logits.float().cpu()


def difference(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference, as a plain number."""
    return float((first - second).abs().max())


def tolerance(dtype: torch.dtype, logits: Tensor) -> float:
    """The accepted difference for logits of this size."""
    return TOLERANCES.get(dtype, 1e-4) * max(1.0, float(logits.abs().max()))


def thinned(logits: Tensor) -> Tensor:
    """The logits of a language model at a few pieces of its vocabulary, evenly spread: a manifest is no place for all.

    Examples:
        >>> thinned(torch.zeros(2, 12, 50_000)).shape, thinned(torch.zeros(2, 3)).shape
        (torch.Size([2, 12, 64]), torch.Size([2, 3]))
    """
    if logits.shape[-1] <= WIDE:
        return logits
    return logits[..., torch.linspace(0, logits.shape[-1] - 1, KEPT).long()]


def as_json(logits: Tensor) -> dict[str, Any]:
    """What a manifest keeps of a probe: the seed, the shape and the logits."""
    return {"seed": SEED, "rows": ROWS, "pieces": PIECES, "logits": thinned(logits).tolist()}
