"""Where a bank listens: taps at output sites, and the attention switch for prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from petune.methods.base import Site
from petune.model import attention
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.own_rows import OWN_ROWS, rows_site
from petune.model.taps import Tap


class Listening:
    """One bank's taps on its backbone.

    Args:
        owner: the bank, whose frames the taps read.
    """

    def __init__(self, owner: object, backbone: Backbone) -> None:
        self._owner, self._backbone = owner, backbone
        self.taps: dict[str, Tap] = {}
        self.attention: dict[nn.Module, str] = {}
        """Attention module -> path; replaced, never changed, because calls look into it while they run."""

    def listen(self, adapter: Adapter, undo: Callable[[], None]) -> None:
        """Listens at every site of an adapter where nobody listens yet.

        Args:
            undo: called when a module cannot be hooked, so that everything stays as it was.

        Raises:
            BackboneError: a module that cannot be hooked.
        """
        try:
            for site in [*adapter.body.sites, *_head_parts(adapter)]:
                if site.kind == "attention":
                    if not self.attention:
                        attention.switch_on(self._backbone.model)
                    self.attention = {**self.attention, site.output: site.path}
                elif site.path not in self.taps:
                    self.taps[site.path] = Tap(self._owner, site)
        except BaseException:
            undo()
            raise

    def leave_all_but(self, users: Iterable[Adapter]) -> None:
        """Leaves the sites at which none of these adapters acts."""
        used = {path for adapter in users for path in _paths(adapter)}
        for path in [path for path in self.taps if path not in used]:
            self.taps.pop(path).detach()
        left = {module: path for module, path in self.attention.items() if path in used}
        if self.attention and not left:
            attention.switch_off(self._backbone.model)
        self.attention = left


def _head_parts(adapter: Adapter) -> list[Site]:
    """Head parts inside the backbone, as sites."""
    base, model_type = adapter.shell.base, adapter.shell.backbone.model_type
    return [
        rows_site(path, base, model_type)
        if path == OWN_ROWS
        else Site(path, "head", -1, base.get_submodule(path), base.get_submodule(path))
        for path in adapter.shell.overlays
    ]


def _paths(adapter: Adapter) -> list[str]:
    """Where an adapter acts inside the backbone."""
    return [*(site.path for site in adapter.body.sites), *adapter.shell.overlays]
