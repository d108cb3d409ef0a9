"""The tokenizer that belongs to a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from petune.errors import BackboneError
from petune.model.backbone import Backbone, quiet
from petune.tasks.base import Task

EMPTY = 2
"""Pieces besides the specials in a tokenizer without files: transformers makes one up that knows no word."""


def open_tokenizer(tokenizer: Any, backbone: Backbone, task: Task | None = None) -> Any:
    """The given tokenizer, or the one that lies beside the backbone; the backbone learns its pad piece.

    Raises:
        BackboneError: none is to be found.
    """
    if tokenizer is None or isinstance(tokenizer, str | Path):
        tokenizer = _beside(str(tokenizer or backbone.source), task)
    if backbone.pad_token_id is None:
        backbone.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def _beside(source: str, task: Task | None) -> Any:
    """The tokenizer of a folder or hub id."""
    knobs = getattr(type(task), "tokenizer_kwargs", {})
    try:
        with quiet():
            if not source:
                raise OSError("the backbone came without a name")
            found = AutoTokenizer.from_pretrained(source, **knobs)
            if len(found.get_vocab()) - len(found.all_special_tokens) <= EMPTY:
                raise OSError("its files are missing")
            return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(
            f"No tokenizer was found for the backbone {source!r}: {str(error).splitlines()[0]}.",
            expected="It lies in the same folder or repository as the backbone.",
            fix="Pass tokenizer=..., or save one there with tokenizer.save_pretrained(folder).",
        ) from error
