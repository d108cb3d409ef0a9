"""Hot-swap: adapters that come, go and are replaced while calls run; every answer is one whole adapter's."""

from __future__ import annotations

import copy
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn

from petune import AdaptedModel
from petune.data.sources import read
from petune.errors import AdapterError, AdapterFileError, MergeError, PetuneError, RouteError
from petune.lookup import find
from petune.methods.base import as_method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.storage import adapter_file
from petune.storage.packing import fingerprint, pack
from tests import tiny
from tests.conformance.subjects import batch, differ, method, open_backbone, same, shake, snapshot

TEXTS = [row["text"] for row in tiny.rows(5, seed=3)]
INPUTS = batch("bert", "single")
WAIT = 30.0
"""Seconds after which a thread that waits is taken for stuck."""
LOAD = 2.0
"""Seconds of load."""

VERSIONS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("lora", {"rank": 2}, 2),
    ("bottleneck", {"style": "parallel", "width": 5}, 3),
    ("lora", {"rank": 7, "targets": ("query", "ffn_output")}, 3),
    ("prefix", {"length": 3}, 2),
    ("adalora", {}, 4),
    ("bottleneck", {"style": "pfeiffer"}, 2),
    ("prefix", {"length": 6}, 4),
    ("head", {}, 3),
    ("lora", {"rank": 2}, 2),
)
"""Method, inner size and number of classes of the versions of one adapter. The last differs from the first in nothing
but its weights and labels."""


@cache
def workshop() -> Backbone:
    """Where adapters are made; models that serve have backbones of their own with the same weights."""
    made = open_backbone("bert")
    fingerprint(made)
    return made


@cache
def version(number: int) -> Adapter:
    """A version; the names of its labels tell which one."""
    recipe, knobs, classes = VERSIONS[number]
    rows = [{"text": text, "label": f"v{number} {index % classes}"} for index, text in enumerate(TEXTS)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number + 1)
        task = find("tasks", "sequence-classification")().learn(read(rows))
        adapter = Adapter.make(workshop(), "made", method(recipe, **knobs), task).settled()
        shake(adapter)
        with torch.no_grad():
            for parameter in adapter.shell.head().values():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return adapter


@cache
def probabilities(number: int) -> np.ndarray:
    """What a version says of the texts, alone on a model."""
    return np.stack(serving(live=number).predict_proba(TEXTS, adapters="live"))


def serving(**residents: int) -> AdaptedModel:
    """A model on a backbone of its own with versions under names."""
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    for name, number in residents.items():
        model.add(name, version(number))
    return model


def said_by(rows: list[Any], places: list[int]) -> int | None:
    """The version whose probabilities these rows of texts have, all of them; None: a torn answer."""
    for number in range(len(VERSIONS)):
        want = probabilities(number)[places]
        if all(len(row) == want.shape[1] for row in rows) and np.allclose(np.stack(rows), want, atol=1e-4):
            return number
    return None


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Threads take turns a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def test_versions_can_be_told_apart():
    """No version's answer could be taken for another one's."""
    found = [said_by(list(probabilities(number)), [0, 1, 2, 3, 4]) for number in range(len(VERSIONS))]
    assert found == list(range(len(VERSIONS)))


# -- replace ----------------------------------------------------------------------------------------------------------


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


# -- under load -------------------------------------------------------------------------------------------------------


def under_load(model: AdaptedModel, pool: ThreadPoolExecutor, ask: Callable[[random.Random], str | None],
               disturb: list[Callable[[int], Any]]) -> int:  # fmt: skip
    """Three threads ask and others disturb for a while; what was wrong fails the test. The number of answers."""
    end, wrong, asked = time.monotonic() + LOAD, list[str](), [0, 0, 0]

    def asking(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < end and not wrong:
            complaint = ask(draw)
            asked[number] += 1
            if complaint:
                wrong.append(complaint)

    def disturbing(work: Callable[[int], Any]) -> None:
        step = 0
        while time.monotonic() < end and not wrong:
            work(step)
            step += 1

    futures = [pool.submit(asking, number) for number in range(3)] + [pool.submit(disturbing, it) for it in disturb]
    for future in futures:
        future.result(WAIT)
    assert not wrong, wrong
    assert all(asked)
    return sum(asked)


def test_no_answer_is_torn_while_others_replace_add_remove_and_compact(pool):
    """Every answer of a call is one whole version's: weights, head and labels, the same for all its rows."""
    model = serving(live=0, still=5)
    for number in range(len(VERSIONS)):
        probabilities(number)

    def ask(draw: random.Random) -> str | None:
        if draw.random() < 0.3:
            answers = model.predict(TEXTS, adapters=["live", "still", "live", "live", "still"])
            live = {answers[row].split()[0] for row in (0, 2, 3)}
            return None if len(live) == 1 and all(answers[row].startswith("v5") for row in (1, 4)) else f"{answers}"
        if draw.random() < 0.4:
            rows = model.predict_proba(TEXTS, adapters="live")
            return None if said_by(rows, [0, 1, 2, 3, 4]) is not None else f"alone {rows}"
        rows = model.predict_proba(TEXTS, adapters=["live", "live", "still", "live", "still"], batch_size=2)
        torn = said_by([rows[0], rows[1], rows[3]], [0, 1, 3]) is None or said_by([rows[2], rows[4]], [2, 4]) != 5
        return f"mixed {rows}" if torn else None

    def swap(step: int) -> None:
        model.replace("live", version(step % len(VERSIONS)))

    def come_and_go(step: int) -> None:
        model.add(f"guest{step % 3}", version((3 * step) % len(VERSIONS)))
        if step % 3 == 2:
            for guest in range(3):
                model.remove(f"guest{guest}")
        if step % 5 == 4:
            model.compact()

    under_load(model, pool, ask, [swap, come_and_go])


def test_calls_on_tensors_keep_what_they_began_with(pool):
    """A call whose adapter is removed, and whose slots are filled anew, in its middle gives its own answer; a call
    that begins after the removal is an error."""
    model, other = serving(live=0, still=5), serving(live=0, still=5)
    route = ["live", "still", None, "live", "still"]
    with torch.no_grad():
        wanted = {"live": [other(**INPUTS, route="live").logits], "mixed": other(**INPUTS, route=route).logits}

    def ask(draw: random.Random) -> str | None:
        kind = draw.choice(["live", "mixed"])
        try:
            with torch.no_grad():
                found = model(**INPUTS, route="live" if kind == "live" else route).logits
        except RouteError as error:
            return None if "live" in str(error) else str(error)
        found = [found] if kind == "live" else found
        pairs = [pair for pair in zip(found, wanted[kind], strict=True) if pair[0] is not None]
        return None if all(a.shape == b.shape and differ(a, b) <= 1e-4 for a, b in pairs) else f"{kind}"

    def swap(step: int) -> None:
        model.remove("live")
        model.add("other", version(8))
        model.add("live", version(0))
        model.remove("other")

    assert under_load(model, pool, ask, [swap]) > 3


def test_no_answer_is_torn_while_others_merge(pool):
    """Merging and unmerging beside calls: the merged adapter's answers stay, others' are answered or refused."""
    model = serving(live=0, still=2)
    before = snapshot(model.backbone.model)
    for number in (0, 2):
        probabilities(number)

    def ask(draw: random.Random) -> str | None:
        name, number = draw.choice([("live", 0), ("still", 2)])
        try:
            rows = model.predict_proba(TEXTS, adapters=name)
        except MergeError as error:
            return None if "merged" in str(error) else str(error)
        return None if said_by(rows, [0, 1, 2, 3, 4]) == number else f"{name} {rows}"

    def merge(step: int) -> None:
        if step % 4 == 3:
            model.merged_copy("still")
            return
        model.merge(("live", "still")[step % 2])
        time.sleep(0.01)
        model.unmerge()

    under_load(model, pool, ask, [merge])
    assert same(snapshot(model.backbone.model), before)


@pytest.mark.parametrize("block", [0, 1])
def test_an_exception_in_one_call_touches_no_other(pool, block):
    """Some calls fail in the middle of the backbone: theirs is the only trace; other threads, the next call of the
    same thread and merges go on (law 19)."""
    model, broken = serving(live=1, still=0), threading.local()
    module = model.backbone.model.encoder.layer[block].output.dense

    def fail(*_: Any) -> None:
        if getattr(broken, "now", False):
            raise KeyError("a failure inside")

    hook = module.register_forward_hook(fail, prepend=True)

    def ask(draw: random.Random) -> str | None:
        name, number = draw.choice([("live", 1), ("still", 0)])
        broken.now = draw.random() < 0.4
        try:
            if broken.now:
                with pytest.raises(KeyError):
                    model.predict(TEXTS, adapters=["live", "still", "live", "still", "live"])
        finally:
            broken.now = False
        rows = model.predict_proba(TEXTS, adapters=name)
        return None if said_by(rows, [0, 1, 2, 3, 4]) == number else f"{name} {rows}"

    assert under_load(model, pool, ask, []) > 3
    hook.remove()
    pool.submit(model.merge, "still").result(WAIT)
    model.unmerge()


# -- merged, and modes ------------------------------------------------------------------------------------------------


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


# -- what a switch costs ----------------------------------------------------------------------------------------------


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


# -- the long tail ----------------------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> AdaptedModel:
    """A model whose one resident is peft's IA3."""
    backbone = open_backbone("bert")
    fingerprint(backbone)
    recipe = as_method(peft.IA3Config(target_modules=["key", "value"], feedforward_modules=[]))
    adapter = Adapter.make(backbone, "made", recipe, version(0).task)
    with torch.no_grad():
        for parameter in adapter.body.module().parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    return model.add("ia3", adapter)


@torch.no_grad()
def test_a_peft_method_serves_whole_batches_only(alone):
    """Its modules act on every row: rows of others, rows without an adapter, and the bare backbone are refused, as
    are routes per token; a list that names it for all rows is not."""
    whole = alone(**INPUTS, route="ia3").logits
    listed = alone(**INPUTS, route=["ia3"] * 5).logits
    assert differ(torch.stack(listed), whole) == 0
    for route in (None, ["ia3", None, "ia3", "ia3", "ia3"], [None] * 5):
        with pytest.raises(RouteError, match="act on every row"):
            alone(**INPUTS, route=route)
        with pytest.raises(RouteError, match="act on every row"), alone.routed(route):
            pass
    with pytest.raises(RouteError, match="by token"):
        alone(**INPUTS, route=[["ia3"] * INPUTS["input_ids"].shape[1]] * 5)
    with pytest.raises(RouteError, match="other"):
        alone(**INPUTS, route=["ia3", "other", "ia3", "ia3", "ia3"])
    assert differ(alone(**INPUTS, route="ia3").logits, whole) == 0


@torch.no_grad()
def test_a_peft_method_stays_alone(alone):
    """Nothing is added beside it or put in its place in one step, and it not beside others; what is there answers on.
    Another model on the same backbone object refuses its calls meanwhile."""
    whole = alone(**INPUTS, route="ia3").logits
    shared = AdaptedModel(alone.backbone.model, tokenizer=tiny.tokenizer("bert"))
    for name, work in (("new", alone.add), ("ia3", alone.replace), ("new", shared.add)):
        with pytest.raises(AdapterError, match="peft"):
            work(name, version(0))
    with pytest.raises(RouteError, match="act on every row"):
        shared(**INPUTS, route=None)
    assert differ(alone(**INPUTS, route="ia3").logits, whole) == 0
    ia3 = alone._bank.find("ia3")
    model = serving(live=0)
    with pytest.raises(AdapterError, match="beside live"):
        model.add("ia3", ia3)
    assert said_by(model.predict_proba(TEXTS, adapters="live"), [0, 1, 2, 3, 4]) == 0


@torch.no_grad()
def test_a_peft_method_leaves_while_no_call_runs(alone, pool):
    """Its modules are taken out when the running call is over; a route that was chosen before is an error then."""
    whole, bare = alone(**INPUTS, route="ia3").logits, tiny.backbone("bert")(**INPUTS).last_hidden_state
    inside, go = threading.Event(), threading.Event()

    def stop(*_: Any) -> None:
        inside.set()
        assert go.wait(WAIT)

    @torch.no_grad()
    def call() -> torch.Tensor:
        logits: torch.Tensor = alone(**INPUTS, route="ia3").logits
        return logits

    hook = alone.backbone.model.encoder.layer[0].attention.register_forward_pre_hook(stop)
    answer = pool.submit(call)
    assert inside.wait(WAIT)
    hook.remove()
    with alone.routed("ia3"):
        removed = pool.submit(alone.remove, "ia3")
        with pytest.raises(TimeoutError):
            removed.result(0.05)
        go.set()
        assert differ(answer.result(WAIT), whole) == 0
        removed.result(WAIT)
        with pytest.raises(RouteError, match="was removed"):
            alone(**INPUTS)
    assert differ(alone(**INPUTS, route=None).last_hidden_state, bare) == 0
    assert said_by(alone.add("live", version(0)).predict_proba(TEXTS, "live"), [0, 1, 2, 3, 4]) == 0
