"""AdaLoRA's budget, whatever became of the run."""

from __future__ import annotations

import copy

import torch

from petune.methods.adalora import AdaLoRA, AdaLoRALayer
from petune.methods.base import Progress


def layers(*, sites: int = 3) -> dict[str, AdaLoRALayer]:
    """Layers with all ranks in use, and gradients."""
    generator = torch.Generator().manual_seed(1)
    made = {f"site{index}": AdaLoRALayer(6, 5, 4, 1.0) for index in range(sites)}
    for layer in made.values():
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    return made


def states(made: dict[str, AdaLoRALayer]) -> list[torch.Tensor]:
    """All tensors."""
    return [tensor.clone() for layer in made.values() for tensor in layer.state_dict().values()]


def test_a_run_that_broke_off_is_folded_within_the_budget() -> None:
    """Halfway more ranks are in use than may be kept; folding drops the ones that matter least."""
    method, made = AdaLoRA(rank=2, init_rank=4), layers()
    method.after_step(made, Progress(30, 100))
    assert sum(len(layer.kept()) for layer in made.values()) > 6
    assert sum(method.folded(made).ranks.values()) == 6
    assert sum(layer.folded().lora_A.shape[0] for layer in made.values()) == 6


def test_a_whole_run_is_folded_as_it_is() -> None:
    """After the last step the layers are in their final form: the last word, and folding, change no bit."""
    method, made = AdaLoRA(rank=2, init_rank=4), layers()
    method.after_step(made, Progress(100, 100))
    before = states(made)
    for layer in made.values():
        layer.zero_grad(set_to_none=True)
    method.after_step(made, Progress(100, 100))
    method.folded(made)
    assert all(torch.equal(was, now) for was, now in zip(before, states(made), strict=True))


def test_a_step_without_gradients_keeps_the_scores() -> None:
    """Where fp16 left a step out the budget falls on, by what was known before."""
    method, made = AdaLoRA(rank=2, init_rank=4), layers()
    method.after_step(made, Progress(50, 100))
    scores = [layer.scores() for layer in made.values()]
    other = copy.deepcopy(made)
    for layer in other.values():
        layer.zero_grad(set_to_none=True)
    method.after_step(other, Progress(100, 100))
    assert all(torch.equal(was, layer.scores()) for was, layer in zip(scores, other.values(), strict=True))
    assert sum(len(layer.kept()) for layer in other.values()) == 6
