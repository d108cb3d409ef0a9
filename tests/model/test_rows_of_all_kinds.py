"""Rows of other people's layers, backbones of other types, and gradients through residents."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from petune.errors import RouteError
from petune.knobs import knobs
from petune.methods.base import AdapterLayer, Method, Site
from petune.model.bank import Bank
from petune.model.intercepting import checkpoint_contexts
from petune.model.routing import entered
from petune.model.running import run
from tests.conformance.subjects import add, differ, method, open_backbone
from tests.conformance.test_routing import crowd
from tests.model.asking import ALL, INPUTS, crowded, routed, seat, solo, states


class GainLayer(AdapterLayer):
    """A layer that knows nothing of stacks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y * (1 + self.gain).to(y.dtype)


@knobs
class Gain(Method):
    """A scale per channel."""

    def roles(self) -> tuple[str, ...]:
        return ("query", "ffn_input")

    def layer(self, site: Site) -> AdapterLayer:
        return GainLayer(site.d_out)


@pytest.mark.parametrize("seated", [True, False], ids=["seated", "training"])
def test_a_layer_without_stacks_shares_batches(seated):
    """A method of somebody else, among others of its kind and of ours at the same sites; it may be held and swapped."""
    bank = crowd("bert", seated=seated)
    for index, name in enumerate(("gain", "louder")):
        add(bank, name, Gain(), "multi", seed=index + 40, seated=seated)
    route = ["gain", "lora", "louder", None, "gain"]
    alone = {name: solo(bank, name) for name in bank.residents}
    assert differ(alone["gain"], alone["louder"]) > 1e-3
    for row, (name, found) in enumerate(zip(route, routed(bank, route), strict=True)):
        assert name is None if found is None else differ(found, alone[name][row]) <= 1e-5
    with pytest.raises(RouteError, match="by token"):
        bank.frame([["gain", "lora"]])
    if seated:
        frame = bank.frame("gain")
        add(bank, "gain", method("lora"), "single", seed=3, seated=True)
        bank.remove("louder")
        with torch.no_grad():
            assert differ(run(bank, frame, INPUTS).logits, alone["gain"]) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_backbones_of_other_types(dtype):
    """The stacks keep their own type; mixed rows are the solo runs within the type's accuracy, and no row of another
    type is touched."""
    backbone = open_backbone("bert")
    backbone.model.to(dtype)
    bank = Bank(backbone)
    for index, (name, size) in enumerate((("lora", {"rank": 3}), ("bottleneck", {}), ("prefix", {"length": 3}))):
        seat(bank, name, method(name, **size), "single", seed=index)
    bare = states(bank)
    route = ["lora", "bottleneck", "prefix", None, "lora"]
    with torch.no_grad():
        output = run(bank, bank.frame(route), INPUTS)
    assert output.last_hidden_state.dtype == dtype
    assert differ(output.last_hidden_state[3], bare[3]) <= 1e-6
    for row, name in enumerate(route):
        if name is not None:
            alone = solo(bank, name)[row]
            assert alone.dtype == output.logits[row].dtype
            assert differ(output.logits[row], alone) <= {torch.float64: 1e-6}.get(dtype, 0.1)
    lanes = [lane for found in bank.contents.chart.lanes.values() for lane in found]
    assert {tensor.dtype for lane in lanes for tensor in lane.tensors.values()} == {torch.float32}


def gradient(bank: Bank, route: Any, meanwhile: Any = None) -> Tensor:
    """The gradient of the logits' sum by the embedded words; `meanwhile` is done before the backward pass."""
    words = bank.backbone.model.get_input_embeddings()(INPUTS["input_ids"]).detach().requires_grad_()
    given = {name: tensor for name, tensor in INPUTS.items() if name != "input_ids"}
    logits = run(bank, bank.frame(route), {"inputs_embeds": words, **given}).logits
    if meanwhile is not None:
        meanwhile()
        gc.collect()
    sum(row.square().sum() for row in logits if row is not None).backward()
    assert words.grad is not None
    return words.grad


@pytest.mark.parametrize("name", ["wider", "ada", "houlsby", "parallel", "short", "probe"])
@pytest.mark.parametrize("mixed", [False, True], ids=["one", "mixed"])
def test_the_gradient_is_that_of_the_call(name, mixed):
    """An adapter removed and its slots filled anew between forward and backward: the gradient by the inputs is the
    same bits."""
    bank = crowded()
    route = [name, None, "lora" if name != "lora" else "ada", name, "houlsby"] if mixed else name
    wanted = gradient(bank, route)

    def swap() -> None:
        recipe = bank.find(name).method
        bank.remove(name)
        seat(bank, name, recipe, "single", seed=60)

    assert differ(gradient(bank, route, swap), wanted) == 0
    assert bool(wanted[0].any())


@pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "reentrant"])
def test_recomputation_uses_the_adapters_of_its_call(reentrant):
    """Gradient checkpointing around a routed call: recomputed in the backward pass after a swap, with the same bits."""
    bank = crowded()
    mask = INPUTS["attention_mask"]
    words = torch.randn(5, mask.shape[1], 32, generator=torch.Generator().manual_seed(0))

    def forward(given: Tensor) -> Tensor:
        return states(bank, {"inputs_embeds": given, "attention_mask": mask})

    def under(frame: Any) -> Any:
        def inside(given: Tensor) -> Tensor:
            with entered(frame):
                return forward(given)

        return inside

    def grad(checkpointed: bool) -> Tensor:
        given = words.clone().requires_grad_()
        frame = bank.frame(["lora", "houlsby", "parallel", "short", None])
        with entered(frame):
            if not checkpointed:
                found = forward(given)
            elif reentrant:
                found = checkpoint(under(frame), given, use_reentrant=True)
            else:
                found = checkpoint(forward, given, use_reentrant=False, context_fn=checkpoint_contexts)
        del frame
        if checkpointed:
            for name in ("lora", "houlsby", "parallel", "short"):
                recipe = bank.find(name).method
                bank.remove(name)
                seat(bank, name, recipe, "single", seed=90)
        found.square().sum().backward()
        assert given.grad is not None
        return given.grad

    plain = grad(False)
    assert differ(grad(True), plain) <= 1e-6 * float(plain.abs().max())


@torch.no_grad()
def test_what_others_see_of_a_module_stays_what_they_saw():
    """Hooks that came after the adapters', and those on whole blocks, keep values that nobody writes into later."""
    bank, kept = crowded(), []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append((output, output.clone()))

    for block in bank.backbone.model.encoder.layer:
        for module in (block, block.attention.self.query, block.output.dense, block.intermediate):
            module.register_forward_hook(keep)
    for name in ALL:
        solo(bank, name)
        routed(bank, [name, None, "lora", name, "houlsby"])
    assert kept and all(torch.equal(now, then) for now, then in kept)
