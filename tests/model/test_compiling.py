"""`torch.compile`: compiled code answers as uncompiled code does, and no route, swap or growth compiles it again."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

from petune import AdaptedModel
from petune.errors import BackboneError, RouteError
from petune.model import opaque
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.running import run
from petune.model.taps import taps_of
from tests import tiny
from tests.conformance.subjects import add, batch, differ, method, open_backbone, shake, task

CLOSE = 1e-5
MIXED = ["lora", "series", None, "beside", "lora"]


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    """Every test begins without compiled code."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def recipes(prefix: bool = False) -> dict[str, Any]:
    """The methods that act at sites; two ranks, and both ways to read a site."""
    found = {
        "lora": method("lora"),
        "wide": method("lora", rank=8),
        "series": method("bottleneck"),
        "beside": method("bottleneck", style="parallel"),
    }
    return {**found, "prefix": method("prefix")} if prefix else found


def bank_of(family: str, *, prefix: bool = False, kind: str = "single") -> Bank:
    """A bank with one seated adapter per method."""
    bank = Bank(open_backbone(family))
    for seed, (name, recipe) in enumerate(recipes(prefix).items()):
        add(bank, name, recipe, kind, seed=seed, seated=True)
    return bank


def model_of(family: str = "bert", **recipes: Any) -> AdaptedModel:
    """An adapted model with adapters for tags, (T, C) logits each."""
    model = AdaptedModel(tiny.backbone(family), tokenizer=tiny.tokenizer(family))
    for seed, (name, recipe) in enumerate(recipes.items()):
        model.add(name, adapter_for(model, recipe, seed))
    return model


def adapter_for(model: AdaptedModel, recipe: Any, seed: int) -> Adapter:
    """A shaken adapter for a model's backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Adapter.make(model.backbone, "made", recipe, task("tokens"))
        shake(made)
    return made


def answers(bank: Bank, route: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The logits of a route, flattened."""
    output = run(bank, bank.frame(route), inputs)
    if isinstance(route, list):
        return torch.cat([logits.flatten() for logits in output.logits if logits is not None])
    return output.last_hidden_state if route is None else output.logits


def agree(bank: Bank, routes: list[Any], inputs: dict[str, Tensor], **options: Any) -> None:
    """Compiled answers equal the uncompiled ones, which differ between routes."""
    with torch.no_grad():
        plain = [answers(bank, route, inputs) for route in routes]
        bank.backbone.compile(**options)
        for route, wanted in zip(routes, plain, strict=True):
            assert differ(answers(bank, route, inputs), wanted) < CLOSE, route
    solo = [wanted for route, wanted in zip(routes, plain, strict=True) if isinstance(route, str)]
    assert all(differ(one, other) > 0.01 for one in solo for other in solo if one is not other)


@pytest.mark.parametrize(
    ("family", "graphs", "backend"),
    [
        ("bert", 1, "aot_eager"),
        ("llama", 1, "aot_eager"),
        ("gpt2", 1, "eager"),
        ("t5", 4, "eager"),
        ("modernbert", 2, "eager"),
    ],
)
def test_one_graph_serves_every_route(family, graphs, backend):
    """LoRA and bottleneck in whole graphs: as many as there are kinds of blocks, whoever serves the rows."""
    counter = CompileCounterWithBackend(backend)
    routes = [*recipes(), MIXED, MIXED[::-1], *([] if family == "t5" else [None])]
    agree(bank_of(family), routes, batch(family, "single"), backend=counter, fullgraph=True)
    assert counter.frame_count == graphs


@torch.no_grad()
def test_no_swap_compiles_again():
    """`use`, `replace`, removing and adding, growing stacks and compacting them keep the graph; answers are right."""
    lora, bottleneck = method("lora"), method("bottleneck")
    model = model_of(one=lora, two=lora, three=bottleneck)
    inputs, counter = batch("bert", "tokens"), CompileCounter()

    def right(*routes: Any) -> None:
        for route in routes:
            found = answers(model._bank, route, inputs)
            assert differ(found, answers(plain._bank, route, inputs)) < CLOSE, route

    plain = copy.deepcopy(model)
    model.backbone.compile(backend=counter, fullgraph=True)
    for name in (None, "one", "two", "three"):
        assert differ(model.use(name)(**inputs)[0], plain.use(name)(**inputs)[0]) < CLOSE
    before = answers(model._bank, "one", inputs)
    for each in (model, plain):
        each.replace("one", adapter_for(each, method("lora", rank=8), 7))
    assert differ(answers(model._bank, "one", inputs), before) > 0.01
    right("one", ["one", "two", None, "three", "one"])
    for each in (model, plain):
        each.remove("two").add("two", adapter_for(each, bottleneck, 8))
    right("two", "three", ["two", "two", "one", "three", None])
    for number in range(5):
        for each in (model, plain):
            each.add(f"more{number}", adapter_for(each, lora, 20 + number))
    right("more4", [f"more{number}" for number in range(5)], ["one", "more0", "two", "three", None])
    model.compact()
    right("more4", ["one", "more0", "two", "three", None])
    assert counter.frame_count == 1


@torch.no_grad()
def test_threads_share_the_compiled_code():
    """Other threads, each with its own route and adapters being replaced meanwhile: every answer is right."""
    bank, inputs, counter = bank_of("bert"), batch("bert", "single"), CompileCounter()
    routes = ["lora", "series", "beside", MIXED]
    wanted = [answers(bank, route, inputs) for route in routes]
    bank.backbone.compile(backend=counter, fullgraph=True)
    answers(bank, None, inputs)  # threads that all come first would each compile
    wrong: list[Any] = []
    ready = threading.Barrier(len(routes))

    def serve(route: Any, expected: Tensor) -> None:
        ready.wait()
        with torch.no_grad():
            try:
                found = [differ(answers(bank, route, inputs), expected) for _ in range(8)]
            except Exception as error:
                wrong.append(error)
            else:
                wrong.extend(worst for worst in found if worst > CLOSE)

    threads = [threading.Thread(target=serve, args=pair) for pair in zip(routes, wanted, strict=True)]
    for thread in threads:
        thread.start()
    for seed in range(6):
        add(bank, "wide", method("lora", rank=8), "single", seed=seed, seated=True)
    for thread in threads:
        thread.join()
    assert not wrong
    assert counter.frame_count == 1


@torch.no_grad()
def test_other_sites_are_compiled_once():
    """An adapter at sites where nobody acted is no part of the old graph; sites that were seen before are not compiled
    again, and a second bank's taps count too."""
    bank, inputs, counter = Bank(open_backbone("bert")), batch("bert", "single"), CompileCounter()
    add(bank, "narrow", method("lora", targets=("query",)), "single", seated=True)
    bank.backbone.compile(backend=counter, fullgraph=True)
    answers(bank, "narrow", inputs)
    assert counter.frame_count == 1
    other = Bank(bank.backbone)
    for owner, name in ((bank, "everywhere"), (other, "theirs")):
        add(owner, name, method("bottleneck"), "single", seed=2, seated=True)
        bare = Bank(open_backbone("bert"))
        add(bare, name, method("bottleneck"), "single", seed=2, seated=True)
        assert differ(answers(owner, name, inputs), answers(bare, name, inputs)) < CLOSE
    assert counter.frame_count == 3
    other.remove("theirs")
    bank.remove("everywhere")
    answers(bank, "narrow", inputs)
    assert counter.frame_count == 3


@torch.no_grad()
def test_an_error_leaves_nothing_behind():
    """A route that a site refuses ends the call with petune's error, and the next one is right."""
    bank, inputs = Bank(open_backbone("deberta-v2", share_att_key=True)), batch("deberta-v2", "single")
    add(bank, "mine", method("lora", targets=("query", "key")), "single", seated=True)
    plain = answers(bank, "mine", inputs)
    bank.backbone.compile(backend="eager", fullgraph=True)
    for _ in range(2):
        with pytest.raises(RouteError, match="leading axis is not the batch"):
            answers(bank, ["mine", None, "mine", None, None], inputs)
        assert differ(answers(bank, "mine", inputs), plain) < CLOSE


@torch.no_grad()
def test_merging_under_compiled_code():
    """Merging writes into weights that graphs take as inputs: merged and unmerged answers are right."""
    model, inputs = model_of(one=method("lora"), two=method("lora")), batch("bert", "tokens")
    plain = [model(**inputs, route=name).logits for name in ("one", "two")]
    counter = CompileCounter()
    model.backbone.compile(backend=counter, fullgraph=True)
    graphs = []
    for _ in range(2):
        model.merge("one")
        assert differ(model(**inputs).logits, plain[0]) < 1e-3
        model.unmerge()
        assert differ(model(**inputs, route="two").logits, plain[1]) < CLOSE
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[1]


@torch.no_grad()
def test_a_copy_is_not_compiled_and_has_sites_of_its_own():
    """A deep copy runs uncompiled until it is compiled; then its operator finds the copy's adapters."""
    model, inputs = model_of(one=method("lora")), batch("bert", "tokens")
    model.backbone.compile(backend="eager", fullgraph=True)
    wanted, counter = model(**inputs, route="one").logits, CompileCounter()
    other = copy.deepcopy(model)
    other.replace("one", adapter_for(other, method("lora"), 9))
    uncompiled = other(**inputs, route="one").logits
    other.backbone.compile(backend=counter, fullgraph=True)
    assert differ(other(**inputs, route="one").logits, uncompiled) < CLOSE
    assert differ(uncompiled, wanted) > 0.01
    assert differ(model(**inputs, route="one").logits, wanted) < CLOSE
    assert counter.frame_count == 1


def test_sites_are_forgotten_with_their_taps():
    """The operator keeps nothing alive."""
    bank = bank_of("bert")
    numbers = {int(tap._number) for tap in taps_of(bank.backbone.model)}
    assert numbers <= set(opaque._sites)
    del bank
    gc.collect()
    assert not numbers & set(opaque._sites)


@torch.no_grad()
def test_architectures_outside_of_the_table():
    """Blocks are found in the outermost lists; a model without any is an error."""
    bank, counter = bank_of("bert"), CompileCounter()
    bank.backbone.model.config.model_type = "unheard-of"
    bank.backbone.compile(backend=counter, fullgraph=True)
    answers(bank, "lora", batch("bert", "single"))
    assert counter.frame_count == 1
    bank.backbone.model.encoder.layer = nn.Sequential(*bank.backbone.model.encoder.layer)
    with pytest.raises(BackboneError, match=r"No blocks.*nn\.ModuleList"):
        bank.backbone.compile()
