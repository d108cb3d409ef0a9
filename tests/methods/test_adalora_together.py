"""AdaLoRA asks for all layers at once; what comes out is what asking each layer for itself gives."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from petune.methods.adalora import AdaLoRA, AdaLoRALayer
from petune.methods.base import Method, Progress
from petune.methods.lora import LoRA
from petune.model.bank import Bank
from petune.model.learner import Learner
from tests.conformance.subjects import add, batch, open_backbone

PARTS = ("lora_A", "lora_E", "lora_B")
SHAPES = ((6, 5), (6, 5), (5, 9), (6, 5), (9, 6))


def made(seed: int = 1) -> dict[str, AdaLoRALayer]:
    """Layers of three shapes, mixed, with all ranks in use."""
    torch.manual_seed(seed)
    layers = {f"site{index}": AdaLoRALayer(*shape, 4, 2.0) for index, shape in enumerate(SHAPES)}
    for layer in layers.values():
        torch.nn.init.normal_(layer.lora_E)
    return layers


def give_gradients(layers: dict[str, AdaLoRALayer], step: int) -> None:
    """Gradients that depend on the step alone."""
    generator = torch.Generator().manual_seed(step)
    for layer in layers.values():
        for part in PARTS:
            parameter = getattr(layer, part)
            parameter.grad = torch.randn(parameter.shape, generator=generator)


class OneByOne:
    """The formulas of the paper, layer by layer."""

    def __init__(self, layers: dict[str, AdaLoRALayer]) -> None:
        self.layers = layers
        self.smoothed = {
            (path, part): [torch.zeros_like(getattr(layer, part)) for _ in range(2)]
            for path, layer in layers.items()
            for part in PARTS
        }

    @torch.no_grad()
    def step(self, method: AdaLoRA, progress: Progress) -> None:
        """Scores, and the lowest ones above the budget to zero."""
        for (path, part), (sensitivity, uncertainty) in self.smoothed.items():
            weight = getattr(self.layers[path], part)
            if weight.grad is None:
                continue
            importance = (weight * weight.grad).abs()
            sensitivity.mul_(method.beta1).add_(importance, alpha=1 - method.beta1)
            uncertainty.mul_(method.beta2).add_((importance - sensitivity).abs(), alpha=1 - method.beta2)
        ranked = sorted(self.ranked(), key=lambda entry: -entry[0])
        for _, path, rank in ranked[method.budget(progress, len(self.layers)) :]:
            self.layers[path].lora_E[rank] = 0.0

    def ranked(self) -> Iterator[tuple[float, str, int]]:
        """(Score, site, rank), in the order of the sites."""
        for path, layer in self.layers.items():
            a, e, b = (self.smoothed[path, part][0] * self.smoothed[path, part][1] for part in PARTS)
            scores = (a.mean(1) + e.flatten() + b.mean(0)).masked_fill(layer.lora_E.flatten() == 0, -1.0)
            yield from ((score, path, rank) for rank, score in enumerate(scores.tolist()))


@pytest.mark.parametrize("missing", [(), (0, 3), (1,)], ids=["all", "two-without", "one-without"])
def test_it_is_the_formula_of_each_layer(missing: tuple[int, ...]) -> None:
    """Over a whole run the scores, the ranks that stay and the LoRA that is folded are those of the formula."""
    method, together = AdaLoRA(rank=2, init_rank=4), made()
    alone = OneByOne(copy.deepcopy(together))
    for step in range(1, 21):
        for layers in (together, alone.layers):
            give_gradients(layers, step)
            for index in missing:  # a site that this step's batch did not reach
                layers[f"site{index}"].zero_grad(set_to_none=True)
            with torch.no_grad():
                for layer in layers.values():
                    layer.lora_E.add_(0.01)  # as an optimizer would bring pruned ranks back
        method.after_step(together, Progress(step, 20))
        alone.step(method, Progress(step, 20))
    for path, layer in together.items():
        for part in PARTS:
            for kind, wanted in zip(("sensitivity", "uncertainty"), alone.smoothed[path, part], strict=True):
                assert torch.allclose(getattr(layer, f"{kind}_{part}"), wanted, rtol=1e-5, atol=1e-7)
        assert torch.equal(layer.lora_E, alone.layers[path].lora_E)
        assert torch.allclose(layer.folded().delta(), alone.layers[path].folded().delta())
    assert sum(method.folded(together).ranks.values()) == 10


def test_the_penalty_is_the_mean_defect() -> None:
    """‖A Aᵀ - I‖ + ‖Bᵀ B - I‖, each layer for itself: the same sum and the same gradients."""
    method, together = AdaLoRA(rank=2, init_rank=4, orthogonality=0.3), made()
    alone = copy.deepcopy(together)
    with torch.no_grad():
        for one, other in zip(together.values(), alone.values(), strict=True):
            for part in ("lora_A", "lora_B"):
                getattr(one, part).mul_(1.5)
                getattr(other, part).mul_(1.5)
    eye = torch.eye(4)
    defects = [(v.lora_A @ v.lora_A.T - eye).norm() + (v.lora_B.T @ v.lora_B - eye).norm() for v in alone.values()]
    wanted = torch.stack(defects).mean() * 0.3
    found = method.penalty(together)
    assert found is not None
    assert torch.allclose(found, wanted)
    found.backward()
    wanted.backward()
    for one, other in zip(together.values(), alone.values(), strict=True):
        assert torch.allclose(one.lora_A.grad, other.lora_A.grad, atol=1e-6)
        assert torch.allclose(one.lora_B.grad, other.lora_B.grad, atol=1e-6)


def test_a_resume_a_copy_and_a_move_keep_the_scores() -> None:
    """A layer's state has the same names as ever. Loaded, copied or converted layers go on as the first ones do."""
    method, first = AdaLoRA(rank=2, init_rank=4), made()
    names = {f"{kind}_{part}" for kind in ("sensitivity", "uncertainty") for part in PARTS} | set(PARTS)
    give_gradients(first, 1)
    method.after_step(first, Progress(1, 20))
    assert all(set(layer.state_dict()) == names for layer in first.values())
    loaded, copied = made(seed=2), copy.deepcopy(first)
    method.after_step(loaded, Progress(1, 20))
    for path, layer in loaded.items():
        layer.load_state_dict(first[path].state_dict())
    moved = {path: copy.deepcopy(layer).double().float() for path, layer in first.items()}
    for step in range(2, 15):
        for layers in (first, loaded, copied, moved):
            give_gradients(layers, step)
            method.after_step(layers, Progress(step, 20))
    for path, layer in first.items():
        for name, tensor in layer.state_dict().items():
            assert all(torch.equal(tensor, other[path].state_dict()[name]) for other in (loaded, copied, moved))


class Operations(TorchDispatchMode):
    """Counts what reaches the kernels."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return function(*args, **(kwargs or {}))


def operations_of_a_step(method: Method) -> int:
    """Forward, loss with penalty, backward, optimizer and the method's own touch, on four blocks."""
    torch.manual_seed(0)
    bank = Bank(open_backbone("bert", num_hidden_layers=4))
    learner, inputs = Learner(bank, add(bank, "mine", method, "single")), batch("bert", "single", 3)
    with learner.fitting(backbone_dropout=False):
        optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3, fused=True)
        for step in range(6, 9):
            with Operations() as counted:
                loss: Tensor = learner(**inputs).square().sum()
                penalty = method.penalty(learner.layers)
                (loss if penalty is None else loss + penalty).backward()
                optimizer.step()
                method.after_step(learner.layers, Progress(step, 10))
                optimizer.zero_grad(set_to_none=True)
    return counted.number


def test_a_step_costs_hardly_more_operations_than_loras() -> None:
    """On 24 sites a step of AdaLoRA, pruning included, has at most 1.3 times the operations of LoRA's."""
    plain = operations_of_a_step(LoRA(rank=6))
    assert operations_of_a_step(AdaLoRA(rank=4, init_rank=6)) <= 1.3 * plain
