"""Linear probe: only the task's head learns, the backbone's features stay as they are.

    logits = head(backbone(x))        the head is the only thing with a gradient

Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes", arXiv:1610.01644.
"""

from __future__ import annotations

from typing import ClassVar

from petune.errors import ConfigError
from petune.knobs import knobs
from petune.methods.base import AdapterLayer, Method, Site


@knobs
class Head(Method):
    """Only the task's head learns: the cheapest baseline, and the floor that every method should beat.

    Examples:
        >>> Head().roles()
        ()
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1610.01644"
    mergeable: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-3

    def roles(self) -> tuple[str, ...]:
        return ()

    def layer(self, site: Site) -> AdapterLayer:
        raise ConfigError("The method 'head' has no layers.", expected="It acts at no site.")
