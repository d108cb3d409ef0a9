"""Hot-swap: what replaces what, what a switch costs, and what stays as its owner had it."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from petune import AdaptedModel
from petune.errors import AdapterError, AdapterFileError, MergeError, PetuneError, RouteError
from petune.model.adapter import Adapter
from petune.storage import adapter_file
from petune.storage.packing import fingerprint, pack
from tests import tiny
from tests.conformance.subjects import method, open_backbone
from tests.versions import INPUTS, TEXTS, VERSIONS, WAIT, probabilities, said_by, serving, version


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(8) as made:
        yield made


def test_versions_can_be_told_apart():
    """No version's answer could be taken for another one's."""
    found = [said_by(list(probabilities(number)), [0, 1, 2, 3, 4]) for number in range(len(VERSIONS))]
    assert found == list(range(len(VERSIONS)))


@pytest.mark.parametrize("old", range(len(VERSIONS)))
def test_replacing_by_every_other_method_rank_and_label_set(old):
    """Head, labels and probabilities are those of the new one from the next call on; the neighbour is not touched."""
    model = serving(live=old, still=0)
    still = model.predict_proba(TEXTS, adapters="still")
    for new in (*range(len(VERSIONS)), old):
        assert model.replace("live", version(new)) is model
        assert said_by(model.predict_proba(TEXTS, adapters="live"), [0, 1, 2, 3, 4]) == new
        assert all(answer.startswith(f"v{new} ") for answer in model.predict(TEXTS, adapters="live"))
        mixed = model.predict_proba(TEXTS, adapters=["live", "still", "live", "still", "live"])
        assert said_by(mixed[::2], [0, 2, 4]) == new
        assert said_by(mixed[1::2], [1, 3]) == 0
    assert all(np.array_equal(now, then) for now, then in zip(model.predict_proba(TEXTS, "still"), still, strict=True))


def test_a_replacement_that_fails_keeps_the_old_one(tmp_path):
    """Corrupt, cut, of another backbone, missing, or no such name: the old one answers with the same bits, and the
    next good one is taken."""
    model = serving(live=0).use("live")
    want = model.predict_proba(TEXTS)
    good = adapter_file.write(tmp_path / "good", pack(version(1), None))
    corrupt, cut = (adapter_file.write(tmp_path / name, pack(version(1), None)) for name in ("corrupt", "cut"))
    for folder, change in ((corrupt, flip_a_bit), (cut, lambda data: data[:-10])):
        file = folder / "adapter_model.safetensors"
        file.write_bytes(change(file.read_bytes()))
    other = open_backbone("bert")
    with torch.no_grad():
        other.model.get_input_embeddings().weight.add_(0.1)
    fingerprint(other)
    foreign = Adapter.make(other, "foreign", method("lora"), version(0).task)
    for bad in (corrupt, cut, tmp_path / "nowhere", foreign):
        with pytest.raises(AdapterFileError):
            model.replace("live", bad)
        assert all(np.array_equal(now, then) for now, then in zip(model.predict_proba(TEXTS), want, strict=True))
    with pytest.raises(RouteError, match="live"):
        model.replace("love", good)
    assert model.names == ("live",)
    assert said_by(model.replace("live", good).predict_proba(TEXTS), [0, 1, 2, 3, 4]) == 1


def flip_a_bit(data: bytes) -> bytes:
    """The last byte, in the middle of a tensor, changed."""
    return data[:-1] + bytes([data[-1] ^ 1])


def test_what_was_given_is_not_taken(tmp_path):
    """The model keeps copies: what the user holds shares no memory with it, and changing it changes no answer."""
    given = copy.deepcopy(version(2))
    folder = adapter_file.write(tmp_path / "folder", pack(given, None))
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    for name in ("a", "b", "c"):
        model.add(name, given)
    model.add("folder", folder).replace("b", given)
    mine = {p.untyped_storage().data_ptr() for module in given.own_modules() for p in module.parameters()}
    for resident in model._bank.residents.values():
        for module in resident.own_modules():
            assert not mine & {p.untyped_storage().data_ptr() for p in module.parameters()}
    with torch.no_grad():
        for module in given.own_modules():
            for parameter in module.parameters():
                parameter.fill_(float("nan"))
    (folder / "adapter_model.safetensors").write_bytes(b"gone")
    for name in model.names:
        assert said_by(model.predict_proba(TEXTS, adapters=name), [0, 1, 2, 3, 4]) == 2


def test_texts_are_answered_while_merged():
    """By the merged adapter, named or not; by others it is an error, and unmerging brings them back."""
    model = serving(live=0, still=5)
    model.merge("live")
    for adapters in ("live", None, ["live"] * 5):
        assert said_by(model.predict_proba(TEXTS, adapters=adapters), [0, 1, 2, 3, 4]) == 0
        assert all(answer.startswith("v0 ") for answer in model.predict(TEXTS, adapters=adapters, batch_size=2))
    for adapters in ("still", ["live", "still", "live", "live", "live"]):
        with pytest.raises(MergeError, match="'live' is merged"):
            model.predict(TEXTS, adapters=adapters)
    refusals: list[Callable[[], Any]] = [
        lambda: model.add("new", version(0)),
        lambda: model.replace("live", version(1)),
        lambda: model.replace("still", version(1)),
        lambda: model.remove("still"),
        lambda: model.merge("still"),
        lambda: model.merged_copy("still"),
    ]
    for refused in refusals:
        with pytest.raises(MergeError, match="merged"):
            refused()
    model.unmerge()
    assert said_by(model.predict_proba(TEXTS, adapters="still"), [0, 1, 2, 3, 4]) == 5
    assert model.names == ("live", "still")


@torch.no_grad()
def test_a_list_that_names_the_merged_one_alone_is_served():
    """By name, row by row or token by token, the merged adapter answers; anybody else in the list is an error."""
    model, rows = serving(live=0, still=5), len(INPUTS["input_ids"])
    want = model(**INPUTS, route=["live"] * rows)
    model.merge("live")
    for route in (["live"] * rows, ("live",) * rows):
        found = model(**INPUTS, route=route)
        for now, then in zip(found.logits, want.logits, strict=True):
            assert torch.allclose(now, then, atol=1e-5)
        assert torch.allclose(found.last_hidden_state, want.last_hidden_state, atol=1e-5)
        with model.routed(route):
            inside = model.backbone.model(**INPUTS).last_hidden_state
            assert torch.equal(inside, found.last_hidden_state) and len(model(**INPUTS).logits) == rows
    with pytest.raises(RouteError, match="names 2 rows"):
        model(**INPUTS, route=["live"] * 2)
    for other in (None, "still"):
        with pytest.raises(MergeError, match="'live' is merged"):
            model(**INPUTS, route=["live"] * (rows - 1) + [other])
    with pytest.raises(RouteError, match="once a row"):
        model(**INPUTS, route=[["live"] * INPUTS["input_ids"].shape[1]] * rows)


def test_one_of_two_threads_that_add_a_name_gets_it(pool):
    """The other is told that it is taken, whoever reads faster; the winner serves."""
    for _ in range(6):
        model, gate = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert")), threading.Barrier(4)

        def work(number: int, model: AdaptedModel = model, gate: threading.Barrier = gate) -> str:
            gate.wait(WAIT)
            try:
                model.add("new", version(number))
            except AdapterError as error:
                return str(error)
            return f"got it {number}"

        said = list(pool.map(work, range(4)))
        (winner,) = [number for number, it in enumerate(said) if it == f"got it {number}"]
        assert sum("There is an adapter 'new' already" in it for it in said) == 3
        assert said_by(model.predict_proba(TEXTS, adapters="new"), [0, 1, 2, 3, 4]) == winner


def modes(model: AdaptedModel) -> list[bool]:
    """The mode of every module of the backbone."""
    return [module.training for module in model.backbone.model.modules()]


def test_the_backbones_modes_are_its_owners():
    """Law 17: a backbone that its user has in train mode, some parts in eval mode, is so after all that a model does,
    answers without dropout meanwhile, and keeps its `requires_grad`."""
    model = serving(still=0)
    inside = model.backbone.model
    inside.train()
    inside.encoder.layer[1].attention.eval()
    for index, parameter in enumerate(inside.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    before, flags = modes(model), [parameter.requires_grad for parameter in inside.parameters()]
    steps: list[Callable[[], Any]] = [
        lambda: model.predict(TEXTS, adapters="still"),
        lambda: model.add("live", version(1)),
        lambda: model.predict_proba(TEXTS, adapters=["live", "still", "live", "live", "still"]),
        lambda: model.replace("live", version(3)),
        lambda: model(**INPUTS, route=["live", None, "still", None, "live"]),
        lambda: model.use("live"),
        lambda: model.compact(),
        lambda: model.merged_copy("still"),
        lambda: model.merge("still"),
        lambda: model.unmerge(),
        lambda: model.predict([3], adapters="still"),
        lambda: model.remove("live"),
    ]
    for step in steps:
        try:
            step()
        except PetuneError:
            assert step is steps[-2]
        assert modes(model) == before
        assert [parameter.requires_grad for parameter in inside.parameters()] == flags
    assert said_by(model.predict_proba(TEXTS, adapters="still"), [0, 1, 2, 3, 4]) == 0


def test_answers_in_train_mode_under_threads(pool):
    """Threads that answer on a backbone in train mode never see each other switch dropout on."""
    model = serving(live=0)
    model.backbone.model.train()

    def work(_: int) -> bool:
        return all(said_by(model.predict_proba(TEXTS, "live"), [0, 1, 2, 3, 4]) == 0 for _ in range(4))

    assert all(pool.map(work, range(4)))
    assert all(modes(model))


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions are called, Python's and C's."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    work()  # what is made once is made by now
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@torch.no_grad()
def test_a_switch_costs_the_same_whatever_is_resident(monkeypatch):
    """`use` and a call of the one in use call as many functions with 64 resident adapters as with 4, and `use` but a
    handful; no module is walked over."""
    model = serving()
    counts = []
    for resident in (4, 64):
        for index in range(len(model.names), resident):
            model.add(f"a{index}", version((0, 2, 5)[index % 3]))
        model.use("a2")

        def switch() -> None:
            model.use("a3")

        with monkeypatch.context() as patch:
            for walk in ("modules", "named_modules", "children", "named_children", "parameters", "named_parameters"):
                patch.setattr(nn.Module, walk, None)
            switching = calls_of(switch)
        counts.append((switching, calls_of(lambda: model(**INPUTS))))
    assert counts[0] == counts[1]
    assert counts[0][0] <= 12


def test_a_use_is_seen_by_the_next_call():
    """A switch is a name: the default is looked up when the call begins, so a replaced one is the new one."""
    model = serving(live=0, still=5).use("live")
    assert said_by(model.predict_proba(TEXTS), [0, 1, 2, 3, 4]) == 0
    model.replace("live", version(1))
    assert said_by(model.predict_proba(TEXTS), [0, 1, 2, 3, 4]) == 1
    assert said_by(model.use("still").predict_proba(TEXTS), [0, 1, 2, 3, 4]) == 5
    with pytest.raises(RouteError, match="'liv'"):
        model.use("liv")
    assert model.default == "still"
