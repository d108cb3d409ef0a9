"""A method of your own in one file: a learnt scale per channel, after (IA)3 (Liu et al. 2022, arXiv:2205.05638).

    y' = y * (1 + g)        g: (d_out,), zero at the start, so a fresh adapter changes nothing

python examples/your_own_method.py [BACKBONE]
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from petune import TrainConfig, Tuner
from petune.knobs import knobs
from petune.methods.base import AdapterLayer, Method, Site


class ScaleLayer(AdapterLayer):
    """`gain` (d_out,): what this layer learns at one site."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (..., d_in) entered the site, y (..., d_out) left it -> the new y."""
        return y * (1 + self.gain).to(y.dtype)


@knobs
class Scale(Method):
    """A learnt scale per channel of keys, values and the feed-forward's inner activations."""

    targets: tuple[str, ...] = ("key", "value", "ffn_input")

    def roles(self) -> tuple[str, ...]:
        return self.targets

    def layer(self, site: Site) -> ScaleLayer:
        return ScaleLayer(site.d_out)


def main(backbone: str) -> None:
    rows = (["a great film", "a lovely story", "an awful film", "a boring story"], ["good", "good", "bad", "bad"])
    tuner = Tuner(backbone, method=Scale(top=2))  # `top`, `layers` and `modules` come with every method
    print(tuner.plan(rows))
    tuner.fit(rows, config=TrainConfig(epochs=10, batch_size=2, learning_rate=1e-2, progress="off"))
    with TemporaryDirectory() as folder:
        print(Tuner.load(tuner.save(folder)).predict(rows[0]) == tuner.predict(rows[0]))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2")
