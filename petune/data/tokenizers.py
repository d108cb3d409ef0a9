"""What makes rows into tensors for a backbone: its tokenizer, its image processor or its feature extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from petune.errors import BackboneError
from petune.model.backbone import Backbone, quiet
from petune.tasks.base import Reads, Task

AUTO: dict[Reads, str] = {
    "tokenizer": "AutoTokenizer",
    "image_processor": "AutoImageProcessor",
    "feature_extractor": "AutoFeatureExtractor",
    "processor": "AutoProcessor",
}
FILES: dict[Reads, tuple[str, ...]] = {
    "tokenizer": ("tokenizer_config.json",),
    "image_processor": ("preprocessor_config.json",),
    "feature_extractor": ("preprocessor_config.json",),
    "processor": ("processor_config.json", "preprocessor_config.json"),
}
"""By which files such a thing is known, in a folder where it was saved."""
EMPTY = 2
"""Pieces besides the specials in a tokenizer without files: transformers makes one up that knows no word."""


def open_tokenizer(tokenizer: Any, backbone: Backbone, task: Task | None = None) -> Any:
    """The given tokenizer (or what else the task reads with), or the one that lies beside the backbone.

    The backbone learns its pad piece.

    Raises:
        BackboneError: none is to be found.
    """
    if tokenizer is None or isinstance(tokenizer, str | Path):
        tokenizer = _beside(str(tokenizer or backbone.source), task)
    if backbone.pad_token_id is None:
        backbone.pad_token_id = getattr(getattr(tokenizer, "tokenizer", tokenizer), "pad_token_id", None)
    return tokenizer


def from_files(folder: str | Path, task: Task | None) -> Any:
    """What reads for a task, as transformers opens it; code that a folder brings along is never run."""
    knobs, reads = getattr(type(task), "tokenizer_kwargs", {}), task.reads if task else "tokenizer"
    return getattr(transformers, AUTO[reads]).from_pretrained(folder, trust_remote_code=False, **knobs)


def _beside(source: str, task: Task | None) -> Any:
    """What reads for a task, from a folder or hub id."""
    reads = task.reads if task else "tokenizer"
    try:
        with quiet():
            if not source:
                raise OSError("the backbone came without a name")
            found = from_files(source, task)
            if reads == "tokenizer" and len(found.get_vocab()) - len(found.all_special_tokens) <= EMPTY:
                raise OSError("its files are missing")
            return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(
            f"No {reads.replace('_', ' ')} was found for the backbone {source!r}: {str(error).splitlines()[0]}.",
            expected="It lies in the same folder or repository as the backbone.",
            fix="Pass tokenizer=..., or save one there with tokenizer.save_pretrained(folder).",
        ) from error
