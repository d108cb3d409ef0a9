"""What a fit may start from in place of fresh weights: another adapter's task, method and tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from petune.lookup import name_of
from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.storage import shelf
from petune.storage.packing import check_backbone, pack
from petune.tasks.base import Task


@dataclass(frozen=True)
class Start:
    """An adapter's recipe and clones of its tensors; the adapter itself may change or go."""

    name: str
    method: Method
    task: Task
    layers: dict[str, dict[str, Tensor]]
    head: dict[str, Tensor]

    def notices(self, method: Method) -> list[str]:
        """What is said when the start's method is not the one that was asked for."""
        if self.method == method:
            return []
        return [f"Started from the adapter {self.name!r}: its method is used, {name_of('methods', self.method)}."]


def start_from(other: Any, backbone: Backbone) -> Start | None:
    """A start from a folder, or from anything that holds an adapter, such as a Tuner; None stays None.

    Raises:
        AdapterFileError: a torn or wrong file, or an adapter of another backbone.
        AdapterError: a tuner that has none yet.
    """
    if other is None:
        return None
    if isinstance(other, str | Path):
        found = shelf.take(other, backbone).adapter
        start = _start(found)
        found.body.detach()  # only its tensors were wanted
        return start
    adapter: Adapter = other.adapter
    if adapter.shell.backbone is not backbone and adapter.method.residence != "private":
        check_backbone(pack(adapter, None), backbone)
    return _start(adapter)


def _start(adapter: Adapter) -> Start:
    layers = {path: {name: t.clone() for name, t in named.items()} for path, named in adapter.tensors().items()}
    head = {name: t.clone() for name, t in adapter.head().items()}
    return Start(adapter.name, adapter.method, adapter.task, layers, head)
