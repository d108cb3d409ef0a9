"""The bank: what a batch costs, who holds a seat, and what calls see while residents come, go and grow."""

from __future__ import annotations

import contextvars
import copy
import gc
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from petune.config import knobs
from petune.errors import AdapterError, MergeError, RouteError
from petune.methods.base import AdapterLayer, Method, Site
from petune.model.bank import Bank
from petune.model.merging import merge, unmerge
from petune.model.routing import checkpoint_contexts, entered
from petune.model.running import run
from petune.model.stacks import Stack
from tests.conformance.subjects import add, batch, differ, method, open_backbone
from tests.conformance.test_routing import crowd

INPUTS = batch("bert", "single")
ALL = ("lora", "wider", "ada", "houlsby", "parallel", "probe", "short", "long")
"""The adapters of `crowd`."""
UNPREFIXED = ALL[:6]
PATH = "encoder.layer.0.attention.self.query"

seat = partial(add, seated=True)


@cache
def _crowd(family: str) -> Bank:
    return crowd(family, seated=True)


def crowded(family: str = "bert") -> Bank:
    """The seated crowd; a copy, because making it costs more."""
    return copy.deepcopy(_crowd(family))


class Counted(TorchDispatchMode):
    """Counts the operations that torch carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def routed(bank: Bank, route: Sequence[str | None], inputs: Mapping[str, Tensor] = INPUTS) -> list[Any]:
    """The logits of each row."""
    return list(run(bank, bank.frame(route), inputs).logits)


@torch.no_grad()
def solo(bank: Bank, name: str, inputs: Mapping[str, Tensor] = INPUTS) -> Tensor:
    """The logits of one adapter for all rows."""
    found: Tensor = run(bank, bank.frame(name), inputs).logits
    return found


def states(bank: Bank, inputs: Mapping[str, Tensor] = INPUTS, **more: Any) -> Tensor:
    """The backbone's last hidden state under the frame around."""
    found: Tensor = bank.backbone.model(**inputs, **more).last_hidden_state
    return found


# -- what a batch costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "sized"),
    [
        (("lora", {}), "rank"),
        (("lora", {"rslora": True}), "rank"),
        (("adalora", {}), None),
        (("bottleneck", {"style": "houlsby"}), "width"),
        (("bottleneck", {"style": "pfeiffer"}), "width"),
        (("bottleneck", {"style": "parallel", "scale": 4.0}), "width"),
        (("prefix", {}), "length"),
    ],
    ids=["lora", "rslora", "adalora", "houlsby", "pfeiffer", "parallel", "prefix"],
)
def test_a_batch_of_many_adapters_costs_the_operations_of_few(recipe, sized):
    """2, 4, 16 or 32 distinct adapters, their inner sizes mixed: the backbone's forward does the same number of
    operations, and calls no adapter's layer."""
    bank = Bank(open_backbone("bert"))
    for index in range(33):
        size = {sized: 5 + index % 4} if sized else {}
        seat(bank, f"a{index}", method(recipe[0], **recipe[1], **size), "single", seed=index)
        for layer in bank.find(f"a{index}").body.layers.values():
            layer.forward = None  # type: ignore[assignment]
    rows = {name: tensor[:1].expand(32, -1).contiguous() for name, tensor in INPUTS.items()}
    counts = []
    for distinct in (2, 4, 16, 32):
        frame = bank.frame([f"a{index * 7 % distinct}" for index in range(32)])  # in no order that helps
        with torch.no_grad(), entered(frame), Counted() as counted:
            states(bank, rows)
        counts.append(counted.count)
    assert len(set(counts)) == 1, counts


@pytest.mark.parametrize("recipe", ["lora", "adalora", "bottleneck", "prefix"])
def test_rows_in_the_order_of_their_slots(recipe):
    """Whether the rows' adapters lie side by side in the stacks, backwards or apart, the answers are the same."""
    bank, sizes = Bank(open_backbone("bert")), {"lora": "rank", "bottleneck": "width", "prefix": "length"}
    for index in range(7):
        size = {sizes[recipe]: 5 + index % 3} if recipe in sizes else {}
        seat(bank, f"a{index}", method(recipe, **size), "single", seed=index)
    bank.remove("a5")
    alone = {name: solo(bank, name) for name in bank.residents}
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (1, 2, 3, 4, 6), (2, 3, 4, 2, 3), (6, 0, 6, 1, 6)):
        route = [f"a{index}" for index in order]
        for row, found in enumerate(routed(bank, route)):
            assert differ(found, alone[route[row]][row]) <= 1e-5


# -- seats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_slot_is_not_reused_while_a_call_holds_it(name):
    """A frame made before its adapter was removed, others took its room, and stacks and table grew, gives the bits
    that it would have given at once: alone, in a mixed batch, and again."""
    bank = crowded()
    mixed: list[str | None] = [name, None, "wider" if name != "wider" else "lora", name, None]
    frames = [bank.frame(name), bank.frame(mixed)]
    wanted = [solo(bank, name), routed(bank, mixed)]
    recipe = bank.find(name).method
    bank.remove(name)
    for index in range(9):
        seat(bank, f"new{index}", recipe, "single", seed=100 + index)
    for index in range(5):
        bank.remove(f"new{index}")
    bank.compact()
    for _ in range(2):
        with torch.no_grad():
            assert differ(run(bank, frames[0], INPUTS).logits, wanted[0]) == 0
            found = run(bank, frames[1], INPUTS).logits
        for row, want in zip(found, wanted[1], strict=True):
            assert (row is None and want is None) or differ(row, want) == 0


def test_a_slot_is_given_back_when_nobody_holds_it():
    """Removed, but held by a frame: the room stays in use; the frame gone: the next adapter takes it."""
    bank = Bank(open_backbone("bert"))
    for index in range(2):
        seat(bank, f"a{index}", method("lora"), "single", seed=index)
    room, frame = bank.allocated_bytes, bank.frame(["a0", None])
    bank.remove("a0")
    assert bank.used_bytes == room
    del frame
    gc.collect()
    assert bank.used_bytes == room // 2
    seat(bank, "a2", method("lora"), "single", seed=2)
    assert (bank.used_bytes, bank.allocated_bytes) == (room, room)


def test_sites_are_left_when_the_last_call_on_them_is_over():
    """A removed adapter's hooks stay as long as a frame holds it, and go with the next change after that."""
    bank = Bank(open_backbone("bert"))
    seat(bank, "a", method("lora", targets=("query",)), "single")
    seat(bank, "p", method("prefix"), "single")
    frame = bank.frame(["a", "p", None, "p", "a"])
    bank.remove("a")
    bank.remove("p")
    assert bank.taps and bank.attention
    del frame
    gc.collect()
    seat(bank, "b", method("lora", targets=("value",)), "single")
    bank.remove("b")
    assert not bank.taps and not bank.attention
    assert not any(module._forward_hooks for module in bank.backbone.model.modules())
    assert bank.backbone.model.config._attn_implementation == "sdpa"


def test_a_failure_in_the_middle_of_an_add_changes_nothing(monkeypatch):
    """Out of memory at the fifth site: no slot, hook or name of the new adapter is left, the old ones answer on."""
    bank = crowded()
    wanted, used, taps = {name: solo(bank, name) for name in ALL}, bank.used_bytes, set(bank.taps)
    put, calls = Stack.put, []

    def failing(stack: Stack, layer: AdapterLayer) -> int:
        calls.append(layer)
        if len(calls) == 5:
            raise MemoryError("no room")
        return put(stack, layer)

    for name, recipe in (("new", method("lora", rank=32)), ("lora", method("lora", rank=16))):
        calls.clear()
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(Stack, "put", failing)
            seat(bank, name, recipe, "single")
        gc.collect()
        assert bank.used_bytes == used
        assert set(bank.taps) == taps
    assert tuple(bank.residents) == ALL
    for name in ALL:
        assert differ(solo(bank, name), wanted[name]) == 0
    seat(bank, "new", method("lora", rank=32), "single", seed=1)
    assert differ(solo(bank, "lora"), wanted["lora"]) == 0


def test_deep_copies_grow_apart():
    """A copy answers with the same bits; what is added, removed and compacted on either side does not reach the
    other."""
    bank = crowded()
    route = ["lora", "short", "houlsby", "long", "parallel"]
    wanted, one = routed(bank, route), solo(bank, "ada")
    twin = copy.deepcopy(bank)
    for index in range(9):
        seat(bank, f"more{index}", method("lora", rank=5), "single", seed=index)
    bank.compact()
    for name in ALL:
        bank.remove(name)
    seat(twin, "more", method("lora", rank=3), "multi", seed=77)
    twin.compact()
    seat(twin, "even more", method("lora", rank=3), "multi", seed=78)
    assert all(differ(row, want) == 0 for row, want in zip(routed(twin, route), wanted, strict=True))
    assert differ(solo(twin, "ada"), one) == 0
    assert set(twin.residents) == {*ALL, "more", "even more"}


# -- residents that come and go in the middle of a call ---------------------------------------------------------------


@pytest.mark.parametrize("recipe", [("bottleneck", {"style": "parallel"}), ("lora", {}), ("prefix", {})], ids=str)
@pytest.mark.parametrize("where", ["encoder.layer.0.intermediate.dense", "encoder.layer.0.attention.self.key"])
@pytest.mark.parametrize("prepend", [False, True])
def test_residents_may_come_and_go_in_the_middle_of_a_call(recipe, where, prepend):
    """At the very module where another adapter is put on or taken off, a running call goes on with its own bits."""
    bank = Bank(open_backbone("bert"))
    seat(bank, "mine", method("lora", targets=("query", "ffn_output")), "single")
    wanted = solo(bank, "mine")
    module = bank.backbone.model.get_submodule(where)

    def come(*_: Any) -> None:
        seat(bank, "other", method(recipe[0], **recipe[1]), "single", seed=3)

    def go(*_: Any) -> None:
        bank.remove("other")

    # `go` is hooked first, so that the tap's own hooks come after it in the very call in which they are taken off.
    for register in (module.register_forward_hook, module.register_forward_pre_hook):
        for action in (go, come):
            if action is go:
                hook = register(go, prepend=prepend)
                come()
            else:
                hook = register(come, prepend=prepend)
            assert differ(solo(bank, "mine"), wanted) == 0
            hook.remove()
            assert ("other" in bank.residents) is (action is come)
            bank.residents.get("other") and go()


def test_tasks_that_share_a_context_do_not_mix_their_inputs():
    """Threads started with a copy of one context share its frame; at sites with two modules each sees its own x."""
    bank, together = Bank(open_backbone("bert")), threading.Barrier(2)
    seat(bank, "mine", method("bottleneck", style="parallel"), "single")
    wanted = [states_of(bank, "mine", row) for row in (0, 1)]

    def meet(*_: Any) -> None:
        together.wait(20)

    bank.backbone.model.encoder.layer[0].intermediate.register_forward_hook(meet)
    with entered(bank.frame("mine")), ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(contextvars.copy_context().run, one_row, bank, row) for row in (0, 1)]
        found = [future.result(30) for future in futures]
    assert [differ(*pair) for pair in zip(found, wanted, strict=True)] == [0, 0]


@torch.no_grad()
def one_row(bank: Bank, row: int) -> Tensor:
    """The hidden states of one row under the frame around."""
    return states(bank, {name: tensor[row : row + 1] for name, tensor in INPUTS.items()})


def states_of(bank: Bank, name: str, row: int) -> Tensor:
    """The hidden states of one row under an adapter."""
    with entered(bank.frame(name)):
        return one_row(bank, row)


def test_modules_called_inside_a_route_refuse_after_a_merge():
    """The merged weights and the adapter's own change would both act: that is an error, whatever the adapter."""
    bank = crowded()
    for name in ("lora", "short", "houlsby"):
        with entered(bank.frame(name)):
            merge(bank, bank.find("lora"))
            with pytest.raises(MergeError, match="merged"):
                states(bank)
            unmerge(bank)
            states(bank)


def test_two_banks_switch_the_attention_of_one_backbone_in_two_threads():
    """Prefixes come and go on both: each is there when it is asked, and in the end the setting is the first one."""
    backbone, start = open_backbone("bert"), threading.Barrier(2)
    banks = [Bank(backbone), Bank(backbone)]
    adapters = [seat(bank, "p", method("prefix"), "single", seed=seed).settled() for seed, bank in enumerate(banks)]
    wanted = [solo(bank, "p") for bank in banks]
    for bank in banks:
        bank.remove("p")

    def work(bank: Bank, adapter: Any, want: Tensor) -> bool:
        start.wait(20)
        right = []
        for _ in range(12):
            bank.seat(adapter)
            right.append(torch.equal(solo(bank, "p"), want))
            bank.remove("p")
        return all(right)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(work, banks, adapters, wanted))
    finally:
        sys.setswitchinterval(before)
    assert backbone.model.config._attn_implementation == "sdpa"


# -- frames -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("seated", [True, False], ids=["seated", "training"])
def test_a_frame_for_repeated_rows(seated):
    """`expanded` gives each repeated row its adapter, also where the whole batch has one."""
    bank = crowd("bert", seated=seated)
    route = ["short", None, "lora", "long", "houlsby"]
    wide = {name: tensor.repeat_interleave(3, 0) for name, tensor in INPUTS.items()}
    for around in (route, ["lora"] * 5, "lora"):
        with entered(bank.frame(around)):
            alone = states(bank)
        with entered(bank.frame(around).expanded(3)) as frame:
            assert differ(states(bank, wide), alone.repeat_interleave(3, 0)) <= 1e-5
        assert frame.batch == (None if isinstance(around, str) else 15)


@torch.no_grad()
def test_a_frame_of_some_of_its_adapters():
    """`only` keeps the rows of the given adapters; the others see the bare backbone."""
    for seated in (True, False):
        bank = crowd("bert", seated=seated)
        frame = bank.frame(["short", "ada", "lora", "long", "lora"])
        with entered(bank.frame([None, "ada", "lora", None, "lora"])):
            wanted = states(bank)
        with entered(frame.only([group for group in frame.groups if group.adapter.name in ("lora", "ada")])):
            assert differ(states(bank), wanted) <= 1e-6


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "bart", "modernbert"])
@torch.no_grad()
def test_prefixes_of_many_lengths_in_one_batch(family):
    """Lengths 1 to 9, some rows with none, some adapters only in some blocks: each row as it is alone."""
    inputs = batch(family, "single")
    lengths: Mapping[str, dict[str, Any]] = {
        "one": {"length": 1}, "three": {"length": 3}, "four": {"length": 4}, "nine": {"length": 9},
        "top": {"length": 3, "top": 1},
    }  # fmt: skip
    bank = Bank(open_backbone(family))
    for index, (name, knob) in enumerate(lengths.items()):
        seat(bank, name, method("prefix", **knob), "single", seed=index)
    alone = {name: solo(bank, name, inputs) for name in lengths}
    for route in (
        ["one", "three", "four", "nine", "top"],
        ["three", "three", "three", "three", "top"],
        ["three", None, "nine", None, None],
        ["top", "top", "one", "one", "one"],
        ["three", "four", "three", "four", "three"],
        ["top"] * 5,
    ):
        for row, (name, found) in enumerate(zip(route, routed(bank, route, inputs), strict=True)):
            if name is not None:
                assert differ(found, alone[name][row]) <= 1e-5, (route, row)


# -- routes per token -------------------------------------------------------------------------------------------------


def packed(names: Sequence[str | None], length: int) -> tuple[list[list[str | None]], Tensor]:
    """Two rows of packed pieces of three tokens each, the names in turn, and the mask that keeps pieces apart."""
    pieces = [[names[(place // 3 + row) % len(names)] for place in range(length)] for row in range(2)]
    number = torch.arange(length) // 3
    mask = (number[:, None] == number[None, :]).expand(2, 1, length, length)
    return pieces, mask


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@torch.no_grad()
def test_packed_tokens_have_their_own_adapters(family):
    """With attention inside of each piece only, every token's state is that of its adapter alone, rows with none
    the bare backbone's."""
    bank, length = crowded(family), 12
    names = [name for name in UNPREFIXED if not bank.contents.seats[name].loose] + [None]
    ids = torch.randint(5, 90, (2, length), generator=torch.Generator().manual_seed(1))
    route, mask = packed(names, length)
    inputs = {"input_ids": ids, "attention_mask": mask & torch.ones_like(mask).tril() if family != "bert" else mask}
    alone = {}
    for name in names:
        with entered(bank.frame(name)):
            alone[name] = states(bank, inputs)
    for given in (route, [tuple(row) for row in route], [[names[0]] * length, [None] * length]):
        with entered(bank.frame(given)):
            found = states(bank, inputs)
        for row in range(2):
            for token in range(length):
                assert differ(found[row, token], alone[given[row][token]][row, token]) <= 1e-5
    assert differ(alone[names[0]], alone[names[1]]) > 1e-2


@torch.no_grad()
def test_a_token_each_is_a_row_each():
    """A route per token of one-token rows is the same as a route per row."""
    bank = crowded("llama")
    inputs = {"input_ids": torch.tensor([[7], [9], [11]])}
    with entered(bank.frame([["lora"], ["houlsby"], [None]])):
        found = states(bank, inputs)
    with entered(bank.frame(["lora", "houlsby", None])):
        assert differ(found, states(bank, inputs)) == 0


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ([["lora", "lora"], ["lora"]], "one length"),
        ([["lora", "lora"], []], "one length"),
        ([[], []], "one length"),
        ([["lora"], "lora"], "one length"),
        (["lora", ["lora"]], "cannot hold"),
        ([["lora", 3]], "cannot hold"),
        ([["lora", "short"]], "by token"),
        ([["lora", "nobody"]], "no adapter 'nobody'"),
    ],
)
def test_odd_routes_per_token_are_refused(route, says):
    """Ragged rows, mixtures of the two forms, odd entries, prefixes, and unknown names: before any work."""
    bank = crowded()
    with pytest.raises(RouteError, match=says):
        bank.frame(route)


def test_an_adapter_in_training_is_not_routed_by_token():
    """Its layer is called on rows."""
    bank = crowd("bert", seated=False)
    with pytest.raises(RouteError, match="by token"):
        bank.frame([["lora", None]])


@torch.no_grad()
@pytest.mark.parametrize("length", [3, 5, 13])
def test_a_route_per_token_of_another_length_is_refused(length):
    """Tokens that are not those of the batch meet no wrong adapter; the maps say so."""
    bank = crowded()
    with entered(bank.frame([["lora", "ada"] * 6, [None] * 12])), pytest.raises(RouteError, match="leading axis"):
        states(bank, {"input_ids": torch.ones(2, length, dtype=torch.long)})


# -- layers of other people, and types --------------------------------------------------------------------------------


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


# -- gradients --------------------------------------------------------------------------------------------------------


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


# -- who must be alone ------------------------------------------------------------------------------------------------


def test_a_whole_model_is_no_resident():
    """Full fine-tuning has a private copy; the bank says how to use it."""
    bank = Bank(open_backbone("bert"))
    adapter = add(bank, "whole", method("full"), "single")
    for adding in (bank.add, bank.seat):
        with pytest.raises(AdapterError, match="full fine-tuning"):
            adding(adapter)
    assert not bank.residents
