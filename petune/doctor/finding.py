"""One thing that is wrong or odd in a folder, and the kinds of such things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""error: petune refuses it, or it is damaged; warning: it works and may not do what you think; note: worth knowing."""

KINDS = {
    "missing": "there is nothing at this path",
    "nothing-known": "the folder holds nothing that petune, peft or transformers wrote",
    "unreadable": "a file cannot be opened, or is a pipe, a device or too large",
    "broken-container": "a safetensors file is cut off, is something else, or its header lies",
    "broken-json": "a JSON file does not parse, has a key twice, or holds NaN",
    "newer-schema": "a newer petune wrote it",
    "bad-manifest": "the manifest lacks a key, or a value has the wrong type",
    "altered-manifest": "the manifest is not the one that was written",
    "altered-tensor": "a tensor's bytes are not those that were written",
    "altered-weights": "a whole model's weights are not those that were saved with its facts",
    "altered-export": "a file claims to be made from this adapter file and says something else",
    "stale-export": "the files beside were made from another adapter file",
    "missing-export": "a file beside the adapter is not there",
    "missing-tensor": "a tensor that the manifest lists is not there",
    "foreign-tensor": "a tensor belongs to nothing",
    "base-weights": "a tensor would write over the backbone's weights",
    "changes-base": "the configuration would change the backbone itself",
    "shapes": "tensors do not fit each other or the configuration",
    "not-finite": "a tensor holds NaN or infinity",
    "untrained": "the adapter changes nothing in the backbone",
    "unknown-name": "a method or a task that is not installed here",
    "bad-knobs": "the knobs of the method or the task cannot be used",
    "unknown-field": "a field of peft's configuration that petune does not know",
    "expression": "a regular expression that can hang who runs it",
    "unsupported": "a kind of adapter that petune does not load",
    "other-format": "an adapter of another library",
    "pickle": "a pickle, which can run code when it is opened",
    "code": "a file of code, or a configuration that names some",
    "link": "a link that leads out of the folder, or nowhere",
    "special-file": "a pipe, a socket or a device",
    "mode": "odd permissions of a file",
    "leftover": "the temporary file of a writer that was killed, or is at work",
    "damaged-checkpoint": "a checkpoint is not whole",
    "no-whole-checkpoint": "a run has checkpoints and none is whole",
    "refused": "petune refuses to load it, for a reason that has no kind of its own",
}
"""Kind of finding -> what it means."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd.

    Args:
        severity: `"error"`, `"warning"` or `"note"`.
        kind: one of `KINDS`.
        file: the file's name in the folder; empty for the folder itself.
        cause: what is the matter.
        key: the tensor, key or field; empty where the whole file is meant.
        fix: what to do about it.
    """

    severity: Severity
    kind: str
    file: str
    cause: str
    key: str = ""
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """The finding as JSON."""
        return {
            "severity": self.severity,
            "kind": self.kind,
            "file": self.file,
            "key": self.key,
            "cause": self.cause,
            "fix": self.fix,
        }
