"""Beside compiled code: prefixes, training, caches, autocast, peft, and backbones that somebody else compiled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from petune.model.bank import Bank
from petune.model.generating import generate
from petune.model.learner import Learner
from petune.model.routing import entered
from tests.conformance.subjects import add, batch, differ, method, open_backbone
from tests.model.test_compiling import CLOSE, MIXED, adapter_for, agree, answers, bank_of, model_of, recipes


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    """Every test begins without compiled code."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_prefixes_are_right_beside_compiled_code(family):
    """A call with a prefix runs uncompiled; the others run in whole graphs although a prefix is resident."""
    counter = CompileCounter()
    routes = ["prefix", *recipes(), ["prefix", "lora", None, "prefix", "series"], MIXED]
    agree(bank_of(family, prefix=True), routes, batch(family, "single"), backend=counter, fullgraph=True)
    assert counter.frame_count == 1


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_backbone_that_somebody_else_compiled(family):
    """`torch.compile` of the whole backbone, called inside `routed`: LoRA in one graph, a prefix between graphs."""
    model = model_of(family, one=method("lora"), two=method("bottleneck", style="parallel"))
    inputs = {name: value for name, value in batch(family, "tokens").items() if name != "labels"}
    base, counter = model.backbone.model, CompileCounter()
    whole = torch.compile(base, backend=counter, fullgraph=True)
    routes = ["one", "two", None, ["two", None, "one", "one", "two"]]
    with torch.no_grad():
        for route in routes:
            with model.routed(route):
                found = whole(**inputs, use_cache=False).last_hidden_state
                assert differ(found, base(**inputs, use_cache=False).last_hidden_state) < CLOSE
        assert counter.frame_count == 1
        model.add("prefix", adapter_for(model, method("prefix"), 5))
        broken = torch.compile(base, backend="eager")
        for route in ["prefix", "one", ["two", None, "prefix", "one", "prefix"]]:
            with model.routed(route):
                found = broken(**inputs, use_cache=False).last_hidden_state
                assert differ(found, base(**inputs, use_cache=False).last_hidden_state) < CLOSE


@pytest.mark.parametrize("recipe", ["lora", "bottleneck", "prefix"])
def test_training_on_a_compiled_backbone_has_its_gradients(recipe):
    """The gradients of an adapter in training are those without compilation, to the bit; nothing is compiled."""
    found = []
    for compiled in (False, True):
        bank, counter = Bank(open_backbone("bert", dropout=0.0)), CompileCounter()
        adapter = add(bank, "mine", method(recipe), "single")
        if compiled:
            bank.backbone.compile(backend=counter, fullgraph=True)
        learner = Learner(bank, adapter).train()
        learner(**batch("bert", "single")).square().sum().backward()
        found.append({name: parameter.grad for name, parameter in learner.named_parameters()})
        with torch.no_grad():
            found.append({"logits": learner.eval()(**batch("bert", "single"))})
        assert counter.frame_count == (compiled and recipe != "prefix")
    assert all(torch.equal(found[0][name], found[2][name]) and gradient.any() for name, gradient in found[0].items())
    assert differ(found[1]["logits"], found[3]["logits"]) < CLOSE


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the tracer's own, on any model
@pytest.mark.parametrize("style", ["houlsby", "parallel"])
def test_gradients_where_somebody_else_compiled(style):
    """With gradients the graphs of a backbone compiled by its owner end at every site, and the layers learn."""
    bank = Bank(open_backbone("bert", dropout=0.0, num_hidden_layers=1))
    adapter = add(bank, "mine", method("bottleneck", style=style), "single")
    inputs, gradients = batch("bert", "single"), []
    for call in (bank.backbone.model, torch.compile(bank.backbone.model, backend="aot_eager")):
        for parameter in adapter.body.module().parameters():
            parameter.requires_grad_(True).grad = None
        with entered(bank.frame("mine")):
            call(**inputs).last_hidden_state.square().sum().backward()
        gradients.append([parameter.grad for parameter in adapter.body.module().parameters()])
    for plain, compiled in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_calls_for_which_nothing_is_compiled():
    """Inner states, key-value caches and written texts are what they are without compilation."""
    bank = bank_of("llama", kind="causal")
    inputs = {name: value for name, value in batch("llama", "causal").items() if name != "labels"}
    prompts = {name: value[:, :4] for name, value in inputs.items()}
    prompts["attention_mask"] = torch.ones_like(prompts["input_ids"])

    written_by = [name or "wide" for name in MIXED]

    def everything() -> list[Tensor]:
        model = bank.backbone.model
        cached = model(**prompts, use_cache=True)
        states = model(**inputs, output_hidden_states=True).hidden_states
        written = generate(bank, bank.frame(written_by), prompts, max_new_tokens=4)
        return [cached.last_hidden_state, cached.past_key_values.layers[1].keys, *states, written]

    answers(bank, "lora", inputs)
    bank.backbone.compile(backend="eager", fullgraph=True)
    answers(bank, "lora", inputs)  # compiled before anybody asks for inner states
    found = everything()
    bank.backbone.compile(disable=True)
    wanted = everything()
    assert len(found) == len(wanted) == 6
    assert all(differ(one, other) < CLOSE for one, other in zip(found, wanted, strict=True))


@torch.no_grad()
def test_autocast_and_inference_mode():
    """Compiled code runs with autocast off; the layers run under the caller's all the same."""
    bank, inputs = bank_of("bert"), batch("bert", "single")
    routes = ["lora", "series", MIXED]
    with torch.autocast("cpu", torch.bfloat16):
        agree(bank, routes, inputs, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        found = [answers(bank, route, inputs) for route in routes]
    bank.backbone.compile(disable=True)
    assert all(differ(one, answers(bank, route, inputs)) < CLOSE for one, route in zip(found, routes, strict=True))


@torch.no_grad()
def test_a_method_of_peft_under_compiled_code():
    """Replaced modules are part of the graph: the answers are the same, also of the bare backbone afterwards."""
    from peft import IA3Config

    from petune.methods.base import as_method

    recipe = as_method(IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]))
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    bare = answers(bank, None, inputs)
    bank.backbone.compile(backend="eager")
    assert differ(answers(bank, None, inputs), bare) < CLOSE
    add(bank, "mine", recipe, "single")
    found = answers(bank, "mine", inputs)
    bank.backbone.compile(disable=True)
    assert differ(answers(bank, "mine", inputs), found) < CLOSE
    bank.remove("mine")
    bank.backbone.compile(backend="eager")
    assert differ(answers(bank, None, inputs), bare) < CLOSE
