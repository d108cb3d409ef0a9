"""What lies beside the weights of a full fine-tuning: petune's facts, and the digest that binds the two."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petune.errors import AdapterFileError

FACTS, WEIGHTS = "petune.json", "model.safetensors"


def is_full_model(folder: Path) -> bool:
    """Whether a folder holds a full fine-tuning saved by petune."""
    return (folder / FACTS).is_file() and (folder / WEIGHTS).is_file()


def weights_digest(folder: Path) -> str:
    """sha256 of the weights file."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses weights that are not those that the facts were saved with.

    Raises:
        AdapterFileError: their sha256 is another one.
    """
    if manifest.get("weights_sha256") != weights_digest(folder):
        raise AdapterFileError(
            f"{folder / WEIGHTS} is not the file that was saved with {FACTS}.",
            expected="Its sha256 is recorded there.",
            fix="Save the model again, or load the folder with transformers alone.",
        )
