"""`Stored`: an adapter at rest, as tensors and a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """An adapter at rest.

    Args:
        manifest: JSON: schema, task, labels, method, backbone ...; see `petune.storage.manifest`.
        layers: site path in the backbone -> short name -> tensor. LoRA: `lora_A` (R, d_in), `lora_B` (d_out, R);
            prefix: `keys`, `values` (P, H, K); the long tail: everything under the path `""`.
        head: name in the shell, such as `classifier.weight` -> tensor.
        notices: what a reader should be told, one sentence each; never an error.
        exports: file beside it -> sha256, of those that were found to be what was written.
    """

    manifest: dict[str, Any]
    layers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    head: Mapping[str, Tensor] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method's name, such as `lora`."""
        return str(self.manifest["method"]["name"])

    @property
    def knobs(self) -> dict[str, Any]:
        """The method's knobs."""
        return dict(self.manifest["method"]["knobs"])

    @property
    def prefix(self) -> str:
        """Where the backbone sits in the shell, such as `bert`; empty when it is the shell itself."""
        return str(self.manifest["backbone"]["prefix"])
