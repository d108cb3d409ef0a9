"""How backbones are read: weights from safetensors only, and no code that lies beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from petune.errors import BackboneError

SAFELY: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
"""What every `from_pretrained` of weights is told. Unsaid, transformers opens a pickle where there is nothing else, and
asks on the terminal whether to run a folder's code."""

ADAPTER_CONFIG = "adapter_config.json"
_MOST = 1_000_000
"""Bytes of a configuration that are looked at."""


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


def refuse_adapters(source: str) -> None:
    """Refuses a folder that is an adapter, or holds one beside a model: transformers would put it into the weights.

    Raises:
        BackboneError: with the adapter's backbone, as far as its configuration names one.
    """
    folder = Path(source)
    if not (folder / ADAPTER_CONFIG).is_file():
        return
    if (folder / "config.json").exists():
        raise BackboneError(
            f"{folder} holds an adapter beside the model's weights, {ADAPTER_CONFIG}.",
            expected="transformers would put it into the weights, which are the frozen backbone here.",
            fix="Move the adapter's files into a folder of their own.",
        )
    base = _base_of(folder / ADAPTER_CONFIG)
    raise BackboneError(
        f"{folder} is an adapter and no backbone.",
        expected=f"Its own backbone is {base!r}." if base else "A folder with a model was expected.",
        fix=f"Pass the backbone. Tuner.load opens the adapter; with continue_from={str(folder)!r} a fit trains it on.",
    )


def refuse_injected(model: object, source: str) -> None:
    """Refuses a model into which transformers has put an adapter that lay beside it on the hub.

    Raises:
        BackboneError: for such a model.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise BackboneError(
            f"{source!r} is an adapter, or holds one beside the model's weights: transformers has put it in.",
            expected="A repository with a model alone was expected.",
            fix="Name the repository of the adapter's backbone.",
        )


def _base_of(config: Path) -> str | None:
    """The backbone that an adapter's configuration names; no more of the file is believed."""
    try:
        with config.open("rb") as file:
            said = json.loads(file.read(_MOST))
        base = said.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return base[:200] if isinstance(base, str) else None
