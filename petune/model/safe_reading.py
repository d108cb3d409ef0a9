"""How backbones are read: weights from safetensors only, and no code that lies beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petune.errors import BackboneError

SAFELY: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
"""What every `from_pretrained` of weights is told. Unsaid, transformers opens a pickle where there is nothing else, and
asks on the terminal whether to run a folder's code."""


def refuse_pickles(source: str) -> None:
    """Refuses a folder whose weights are there as a pickle alone.

    Raises:
        BackboneError: with the file, and how to turn it into safetensors.
    """
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles:
        raise BackboneError(
            f"{folder} holds its weights as a pickle, {pickles[0].name}.",
            expected="model.safetensors: a pickle can run code, so petune never opens one.",
            fix="Load it with transformers where you trust it, and save it again: save_pretrained writes safetensors.",
        )
