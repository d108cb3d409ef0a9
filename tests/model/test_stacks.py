"""Stacks: how much memory residents take, whose memory it is, and that no slot is written while somebody reads it."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from petune.methods._stacking import add_product
from petune.methods.lora import LoRALayer
from petune.methods.prefix import PrefixLayer
from petune.model.bank import Bank
from petune.model.routing import entered
from petune.model.stacks import Stack, bucket_of, key_of, parameter_of
from tests.conformance.subjects import add, batch, method, open_backbone

CPU = torch.device("cpu")
RECIPES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {"rank": 1}),
    ("lora", {"rank": 3, "rslora": True}),
    ("lora", {"rank": 8, "targets": ("query", "value")}),
    ("lora", {"rank": 4, "ranks": {"encoder.layer.0.attention.self.query": 0, "encoder.layer.1.output.dense": 7}}),
    ("adalora", {}),
    ("bottleneck", {"width": 5}),
    ("bottleneck", {"width": 5, "activation": "relu"}),
    ("bottleneck", {"style": "pfeiffer", "width": 16}),
    ("bottleneck", {"style": "parallel", "width": 9, "scale": 4.0}),
    ("prefix", {"length": 3}),
    ("prefix", {"length": 8}),
    ("head", {}),
)


def lora(rank: int, seed: int = 0, d_in: int = 6, d_out: int = 5, scale: float = 2.0) -> LoRALayer:
    """A LoRA layer with every number drawn."""
    torch.manual_seed(seed)
    layer = LoRALayer(d_in, d_out, rank, scale)
    nn.init.normal_(layer.lora_B)
    return layer


def padded(bank: Bank) -> int:
    """Bytes of every resident's stacked tensors, each as long as the bucket of its inner size."""
    total = 0
    for adapter in bank.residents.values():
        for layer in adapter.body.layers.values():
            for name, axis in layer.inner.items():
                parameter = parameter_of(layer, name)
                shape = list(parameter.shape)
                if axis is not None:
                    shape[axis] = bucket_of(shape[axis]) if shape[axis] else 0
                total += torch.Size(shape).numel() * parameter.element_size()
    return total


def storages(bank: Bank) -> dict[int, int]:
    """Address -> bytes of the memory in which the residents' stacked parameters lie."""
    layers = [layer for adapter in bank.residents.values() for layer in adapter.body.layers.values()]
    found = [parameter_of(layer, name).untyped_storage() for layer in layers for name in layer.inner]
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


@pytest.fixture(scope="module")
def crowded() -> Bank:
    """Thirty-seven residents of all methods and many sizes; nobody changes them."""
    bank = Bank(open_backbone("bert"))
    for index in range(37):
        name, knobs = RECIPES[index % len(RECIPES)]
        add(bank, f"a{index}", method(name, **knobs), "single", seed=index, seated=True)
    return bank


def test_memory_in_use_is_that_of_the_padded_adapters(crowded):
    """Used bytes are the bucket-padded tensors; allocated bytes are the tensors that really exist, at most 2.1 times
    as many."""
    assert padded(crowded) <= crowded.used_bytes <= 1.1 * padded(crowded)
    assert crowded.allocated_bytes == sum(storages(crowded).values()) <= 2.1 * padded(crowded)


def test_memory_stays_within_its_limits_at_every_step():
    """After each of many adds, in an order by chance, also of adapters that take others' places."""
    bank, draw = Bank(open_backbone("bert")), random.Random(3)
    for step in range(28):
        name, knobs = draw.choice(RECIPES)
        new = step < 18
        add(bank, f"a{step if new else draw.randrange(18)}", method(name, **knobs), "single", seed=step, seated=True)
        assert bank.used_bytes <= 1.1 * padded(bank)
        if not new:
            bank.compact()
            assert bank.used_bytes == bank.allocated_bytes
        assert bank.allocated_bytes <= 2.1 * padded(bank)


@torch.no_grad()
def test_compact_gives_back_what_is_in_reserve():
    """After adds and removals the allocated bytes are the used ones, and every resident keeps its tensors' bits."""
    bank = Bank(open_backbone("bert"))
    for index in range(9):
        add(bank, f"a{index}", method("lora", rank=1 + index % 3), "single", seed=index, seated=True)
    for index in (0, 3, 4, 8):
        bank.remove(f"a{index}")
    kept = {name: {p: {k: t.clone() for k, t in ts.items()} for p, ts in a.tensors().items()}
            for name, a in bank.residents.items()}  # fmt: skip
    assert bank.allocated_bytes > 1.5 * bank.used_bytes
    used = bank.used_bytes
    bank.compact()
    assert bank.used_bytes == bank.allocated_bytes == used == padded(bank)
    assert sum(storages(bank).values()) == used
    for name, adapter in bank.residents.items():
        for path, tensors in adapter.tensors().items():
            assert all(torch.equal(tensor, kept[name][path][short]) for short, tensor in tensors.items())
    bank.compact()
    add(bank, "more", method("lora", rank=1), "single", seed=50, seated=True)
    assert bank.allocated_bytes <= 2.1 * padded(bank)


def test_room_is_used_again():
    """Many swaps of one adapter, back and forth between two sizes, take no more room than the first two."""
    bank = Bank(open_backbone("bert"))
    sizes = []
    for index in range(16):
        add(bank, "mine", method("lora", rank=(2, 4)[index % 2]), "single", seed=index, seated=True)
        sizes.append(bank.allocated_bytes)
        assert bank.used_bytes == padded(bank)
    assert set(sizes[1:]) == {sizes[1]}


def test_residents_are_views_of_the_stacks(crowded):
    """After growth every stacked parameter lies inside of its stack, and no stack is kept beside the newest one."""
    lanes = [lane for found in crowded.contents.chart.lanes.values() for lane in found]
    stacks = {tensor.untyped_storage().data_ptr() for lane in lanes for tensor in lane.tensors.values()}
    assert set(storages(crowded)) <= stacks
    for adapter in crowded.residents.values():
        seat = crowded.contents.seats[adapter.name]
        for path, layer in adapter.body.layers.items():
            lane = next((it for it in crowded.contents.chart.lanes[path] if it.number in seat.slots), None)
            for name, axis in layer.inner.items() if lane is not None else ():
                own = lane.one(seat.slots[lane.number])[name]
                parameter = parameter_of(layer, name).detach()
                assert torch.equal(own, parameter.mT if axis == 1 else parameter)


def test_a_deep_copy_has_stacks_of_its_own(crowded):
    """A copy's residents are views of the copy's stacks, so it takes no more memory, and shares none."""
    twin = copy.deepcopy(crowded)
    assert twin.allocated_bytes == sum(storages(twin).values()) == crowded.allocated_bytes
    assert not storages(twin).keys() & storages(crowded).keys()


@pytest.mark.parametrize(
    ("width", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (48, 64), (64, 64), (65, 128)]
)
def test_buckets_are_powers_of_two(width, bucket):
    """The next power of two, the size itself included."""
    assert bucket_of(width) == bucket


def test_what_shares_a_stack():
    """Ranks of one bucket do; another bucket, type, width of the site or kind of layer does not."""
    keys = {name: key_of(layer) for name, layer in {
        "five": lora(5), "eight": lora(8), "four": lora(4), "half": lora(5).bfloat16(), "wide": lora(5, d_out=7),
        "prefix": PrefixLayer(5, 2, 3),
    }.items()}  # fmt: skip
    assert keys["five"] == keys["eight"]
    assert len(set(keys.values())) == len(keys) - 1


def test_what_is_narrower_is_padded_with_zeros_and_cut_again():
    """Also in a slot where something wider lay before: nothing of it is left."""
    stack = Stack(0, lora(8), CPU)
    slot = stack.put(lora(8, seed=1))
    stack.free(slot)
    narrow = lora(5, seed=2)
    wanted = {name: tensor.clone() for name, tensor in narrow.tensors().items()}
    assert stack.put(narrow) == slot
    for name, tensor in stack.lane.tensors.items():
        assert not tensor[slot, 5:].any()
        assert tensor[slot, :5].all()
        own = stack.lane.one(slot)[name]
        assert torch.equal(own.mT if name == "lora_B" else own, wanted[name])
    assert torch.equal(narrow.lora_A, wanted["lora_A"]) and torch.equal(narrow.lora_B, wanted["lora_B"])


@torch.no_grad()
def test_a_lane_is_a_snapshot():
    """What a lane said of its residents stays true while the stack grows and other slots are filled and freed."""
    stack, layers = Stack(0, lora(4), CPU), [lora(3, seed=seed, scale=1.0 + seed) for seed in range(9)]
    slots, seen = [], []
    for layer in layers:
        slots.append(stack.put(layer))
        lane = stack.lane
        seen.append((lane, list(slots), [{n: t.clone() for n, t in lane.one(at).tensors.items()} for at in slots]))
    stack.free(slots[-1])
    stack.put(lora(4, seed=20, scale=9.0))
    for lane, those, tensors in seen[:-1]:
        many = lane.rows(torch.tensor(those))
        for row, (slot, wanted) in enumerate(zip(those, tensors, strict=True)):
            one = lane.one(slot)
            assert one.scale == layers[row].scale
            assert all(torch.equal(one[name], tensor) for name, tensor in wanted.items())
            assert all(torch.equal(many[name][row, :3], tensor) for name, tensor in wanted.items())
            assert float(many.scale[row] if isinstance(many.scale, Tensor) else many.scale) == layers[row].scale


def test_one_scale_is_a_number_again_when_the_others_are_gone():
    """While all residents have one scale, rows are not multiplied by a tensor."""
    stack = Stack(0, lora(4), CPU)
    stack.put(lora(4, scale=2.0))
    assert stack.lane.scale == 2.0
    other = stack.put(lora(4, scale=3.0))
    assert isinstance(stack.lane.scale, Tensor)
    stack.free(other)
    stack.put(lora(4, scale=2.0))
    assert stack.lane.scale == 2.0


def product_of(y: Tensor, left: Tensor, right: Tensor, scale: Any) -> Tensor:
    """The sum as anybody would write it, in the widest type at hand."""
    return (y.double() + left.double() @ right.double() * (scale.double() if isinstance(scale, Tensor) else scale)).to(
        y.dtype
    )


@pytest.mark.parametrize("rows", [True, False], ids=["rows", "one"])
@pytest.mark.parametrize("scale", [1.0, 0.5, torch.tensor([[[2.0]], [[0.25]], [[1.0]]])], ids=["1", "half", "tensor"])
@pytest.mark.parametrize(
    ("y_type", "own_type"),
    [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16"), ("float64", "float32")],
)
@pytest.mark.parametrize("grad", [False, True], ids=["plain", "graph"])
def test_the_sum_in_every_type_and_form(rows, scale, y_type, own_type, grad):
    """One right side or one for each row, a scale for all or for each, every pair of types, with a graph or without."""
    torch.manual_seed(0)
    y = torch.randn(3, 4, 5).to(getattr(torch, y_type))
    left = torch.randn(3, 4, 2).to(getattr(torch, own_type)).requires_grad_(grad)
    right = torch.randn(*((3,) if rows else ()), 2, 5).to(getattr(torch, own_type))
    wanted = product_of(y, left.detach(), right, scale)
    found = add_product(y.clone(), left, right, scale)
    assert found.dtype == y.dtype
    assert found.requires_grad is grad
    rough = {y_type, own_type} & {"bfloat16"}
    assert torch.allclose(found.detach(), wanted, atol=5e-2 if rough else 1e-5, rtol=2e-2 if rough else 1e-5)


def test_the_sum_is_written_in_place_only_where_nobody_can_tell():
    """Without a graph and with equal types y is the result; with a graph, or where y is no plain memory, it stays."""
    left, right = torch.randn(3, 4, 2), torch.randn(2, 5)
    y = torch.randn(3, 4, 5)
    assert add_product(y, left, right).data_ptr() == y.data_ptr()
    for given, there in (
        (torch.randn(3, 4, 5), left.clone().requires_grad_()),
        (torch.randn(3, 4, 5, requires_grad=True), left),
        (torch.randn(3, 5, 4).mT, left),
        (torch.randn(1, 4, 5).expand(3, 4, 5), left),
        (torch.randn(3, 4, 5).bfloat16(), left),
    ):
        before = given.detach().clone()
        found = add_product(given, there, right)
        assert torch.equal(given, before)
        assert not torch.equal(found, before)


class Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Runs an operation and counts it."""
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize(("order", "gathers"), [((0, 1, 2, 3, 4), 0), ((3, 0, 4, 1, 1), 2)], ids=["steady", "mixed"])
def test_a_site_of_a_mixed_batch_takes_two_products(order, gathers):
    """One product down and one up into the output, with the scale on the small side; rows whose slots follow each other
    are not gathered at all, others once for each factor. No sum, copy or cast of the output's size."""
    bank, inputs = Bank(open_backbone("bert")), batch("bert", "single")
    for index in range(5):
        add(bank, f"a{index}", method("lora", rank=2), "single", seed=index, seated=True)
    sites = len(bank.find("a0").body.sites)
    found = []
    for route in (None, [f"a{index}" for index in order]):
        with entered(bank.frame(route)), Counted() as counted:
            bank.backbone.model(**inputs)
        found.append(counted.seen)
    more = {name: count for name, count in (found[1] - found[0]).items() if name not in ("slice", "transpose", "view")}
    once = {"index_select": gathers * sites + 1, "bmm": sites, "baddbmm_": sites, "mul": sites}
    assert {name: more.get(name, 0) for name in once} == once
    assert not more.keys() & {"add", "clone", "copy_", "_to_copy", "cat", "index_copy"}
