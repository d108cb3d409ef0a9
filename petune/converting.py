"""`convert`: an adapter that another library wrote, as petune's own folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from petune.errors import ConfigError
from petune.storage import adapter_file
from petune.storage.names import check_name
from petune.tuner import Tuner


def convert(
    folder: str | Path,
    out: str | Path,
    *,
    backbone: str | Path | PreTrainedModel | None = None,
    labels: Sequence[str] = (),
    name: str | None = None,
) -> Tuner:
    """Takes an adapter over from peft or from AdapterHub: the folder has labels, tokenizer, fingerprint and probe.

    Args:
        folder: what peft's `save_pretrained` or AdapterHub's `save_adapter(..., use_safetensors=True)` wrote.
        out: petune's folder.
        backbone: None takes the one that the folder names.
        labels: in class order, where the folder has no names for them; empty: those that it has.
        name: of the adapter; None keeps its own.

    Returns:
        The tuner with the adapter that was written.

    Raises:
        AdapterFileError: an adapter that petune would compute otherwise, or one that does not fit the backbone.
        ConfigError: another number of labels than there are classes.

    Examples:
        >>> from petune import TrainConfig, export
        >>> own = Tuner(backbone).fit(rows, config=TrainConfig(epochs=1, progress="off"))
        >>> place = Path(backbone).parent
        >>> plain = export(own.save(place / "own"), place / "by-peft").folder
        >>> convert(plain, place / "back", backbone=backbone, labels=own.classes_).classes_
        ('bad', 'good')
    """
    known = {}
    if isinstance(backbone, PreTrainedModel):
        known = {"config": backbone.config, "prefix": backbone.base_model_prefix}
    elif backbone is not None:
        known = {"config": _config(str(backbone))}
    stored = adapter_file.read(folder, **known)
    manifest = dict(stored.manifest)
    if labels:
        manifest["labels"] = _relabelled(list(labels), manifest["labels"])
    if name is not None:
        manifest["name"] = check_name(name)
    with tempfile.TemporaryDirectory() as place:
        staged = adapter_file.write(Path(place) / "adapter", replace(stored, manifest=manifest))
        tuner = Tuner.load(staged, backbone)
    tuner.save(out)
    return tuner


def _config(source: str) -> object:
    """The backbone's configuration; whether it is a backbone at all is found when it is opened."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None


def _relabelled(labels: list[str], old: Sequence[str]) -> list[str]:
    if len(labels) != len(old) or len(set(labels)) < len(labels):
        raise ConfigError(
            f"{len(labels)} labels were given ({', '.join(labels)}), the adapter has {len(old)} classes.",
            expected="One name for each class, in their order.",
        )
    return labels


__all__ = ["convert"]
