"""Methods of other people, language models, and the benchmark that measures all of this."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from benchmarks import machine, merging_adapters
from petune import LoRA
from petune.knobs import knobs
from petune.lookup import find
from petune.methods.base import AdapterLayer, Method, Site
from petune.model.adapter import Adapter
from petune.model.combining.ways import WAYS
from tests.combining.making import adapter, changes, merged, off, shake, summed
from tests.conformance.subjects import open_backbone


class DiagonalLayer(AdapterLayer):
    """Adds a diagonal matrix to the weights; it knows its change as a whole only."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.shape = d_out, d_in
        self.entries = nn.Parameter(torch.zeros(min(d_in, d_out)))

    def delta(self) -> Tensor:
        """(d_out, d_in)."""
        whole = torch.zeros(self.shape)
        whole.diagonal().copy_(self.entries.detach())
        return whole

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (..., d_in), y (..., d_out) -> (..., d_out)."""
        return y + x @ self.delta().T


@knobs
class Diagonal(Method):
    """A mergeable method that is not petune's."""

    mergeable = True

    def roles(self) -> tuple[str, ...]:
        """Square, tall and wide maps."""
        return ("query", "ffn_input", "ffn_output")

    def layer(self, site: Site) -> DiagonalLayer:
        """A diagonal of zeroes."""
        return DiagonalLayer(site.d_in, site.d_out)


@pytest.mark.parametrize("how", ["linear", "svd", "ties"])
def test_a_method_that_knows_only_its_whole_change(how):
    """It is merged by that change; cut to a rank it is the best of that rank."""
    home = open_backbone("bert")
    made = [adapter(home, "a", Diagonal()), adapter(home, "b", LoRA(rank=2, targets=("query",)), seed=2)]
    both = merged(
        made, [1.0, 0.5], how, rank=40 if how == "linear" else 5, **({"density": 1.0} if how == "ties" else {})
    )
    exact = summed(made, [1.0, 0.5])
    if how == "linear":
        assert off(changes(both.adapter), exact) < 1e-6
        return
    assert both.report.relative_error > 0.1
    if how == "svd":
        assert off(changes(both.adapter), exact) == pytest.approx(both.report.relative_error, abs=1e-5)


@pytest.mark.parametrize(("task", "family"), [("causal-lm", "llama"), ("seq2seq-lm", "t5")])
def test_language_models_share_their_head(task, family):
    """Whatever the signs of the weights: an output layer that is the same in all of them stays as it is."""
    home = open_backbone(family)
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(Adapter.make(home, f"{seed}", LoRA(rank=seed), find("tasks", task)()))
        shake(made[-1])
    made[1].load(made[1].tensors(), made[0].head())
    both = merged(made, [1.0, -0.5], "task_arithmetic", family=family)
    assert off(changes(both.adapter), summed(made, [1.0, -0.5])) < 1e-6
    assert type(both.task) is type(made[0].task)
    assert all(torch.equal(both.adapter.head()[name], tensor) for name, tensor in made[0].head().items())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it
def test_the_benchmark_runs(monkeypatch, capsys):
    """On a tiny model: every way is measured, ours is exact where peft's linear is not, and nothing is written."""
    written: list[str] = []
    monkeypatch.setattr(merging_adapters, "write_result", lambda name, payload: written.append(name))
    monkeypatch.setattr(sys, "argv", ["merging_adapters", "--repeats", "1", "--blocks", "1", "--width", "64"])
    monkeypatch.setattr(merging_adapters, "THREADS", torch.get_num_threads())
    merging_adapters.main()
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == list(WAYS)
    assert not written
    assert machine.RESULTS.exists()
