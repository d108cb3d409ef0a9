"""Full fine-tuning: every weight of a private copy of the backbone learns, under the same loop.

    θ ← θ - η ∇θ L        for all weights, head included

The honest baseline of every comparison. Howard and Ruder 2018, arXiv:1801.06146; Devlin et al. 2018, arXiv:1810.04805.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from petune.errors import ConfigError
from petune.knobs import knobs
from petune.methods.base import AdapterLayer, Method, Site


@knobs
class Full(Method):
    """Every weight of a private copy of the backbone learns; saving writes a plain transformers folder.

    Examples:
        >>> Full().residence
        'private'
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1810.04805"
    residence: ClassVar[Literal["shared", "sole", "private"]] = "private"
    learning_rate: ClassVar[float] = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top is not None or self.layers != "all" or self.modules:
            raise ConfigError("The method 'full' trains every weight.", fix="Drop top, layers and modules.")

    def roles(self) -> tuple[str, ...]:
        return ()

    def layer(self, site: Site) -> AdapterLayer:
        raise ConfigError("The method 'full' has no layers.", expected="It trains the backbone itself.")
