"""The store under many threads: one load for all who ask, nobody waits for others' files, and no answer is torn."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging

from petune.errors import AdapterFileError
from petune.storage import adapter_file, shelf
from petune.storage.packing import pack
from tests.storage.stocking import answers, are_distinct, expected, is_like, made, stock, store, write

ADAPTER = "adapter_model.safetensors"
WAIT = 30.0
"""Seconds after which a thread that waits is taken for stuck."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with four adapters."""
    place = tmp_path_factory.mktemp("adapters")
    stock(place, 4)
    return place


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(8) as made:
        yield made


def patch_take(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], Any]) -> list[str]:
    """Calls `before(name)` in every read; the result lists the names that were read."""
    real, read = shelf.take, list[str]()

    def take(folder: Path, backbone: Any, name: str, **more: Any) -> shelf.Taken:
        read.append(name)
        before(name)
        return real(folder, backbone, name, **more)

    monkeypatch.setattr(shelf, "take", take)
    return read


def test_one_load_for_all_who_ask(root: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads want one adapter: it is read once, and all get the same object."""
    read = patch_take(monkeypatch, lambda name: time.sleep(0.2))
    shop, start = store(root), threading.Barrier(8)

    def want() -> Any:
        start.wait(WAIT)
        return shop.bring(["a000"]).contents.adapters["a000"]

    found = [future.result(WAIT) for future in [pool.submit(want) for _ in range(8)]]
    assert read == ["a000"]
    assert len(set(map(id, found))) == 1
    assert shop.statistics.loads == 1


def test_different_adapters_are_read_side_by_side(
    root: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three threads are inside the reader at once, each for a name of its own; residents are served meanwhile."""
    together = threading.Barrier(4)
    shop = store(root)
    shop.bring(["a003"])
    patch_take(monkeypatch, lambda name: together.wait(WAIT))
    futures = [pool.submit(shop.bring, [name]) for name in ("a000", "a001", "a002")]
    assert shop.bring(["a003"]).names == ("a003",)  # all others are held up, or on their way there
    together.wait(WAIT)
    assert [future.result(WAIT).names for future in futures] == [("a000",), ("a001",), ("a002",)]


def test_loads_side_by_side_leave_no_setting_behind(root: Path, pool: ThreadPoolExecutor) -> None:
    """torch's default type and transformers' verbosity are those of the process, and stay as they were."""
    verbosity, dtype = logging.get_verbosity(), torch.get_default_dtype()
    for _ in range(4):  # a fresh backbone has built nothing yet, so that all of them build at once
        shop = store(root)
        list(pool.map(lambda name: shop.bring([name]), shop.names))  # noqa: B023
    assert logging.get_verbosity() == verbosity
    assert torch.get_default_dtype() == dtype


def test_all_who_waited_get_the_same_error(
    root: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that fails wakes those who wait with its error, also one that no check foresaw; the next is a new try."""
    shop, start = store(root), threading.Barrier(4)

    def fail(name: str) -> None:
        time.sleep(0.3)
        raise RuntimeError("the disk is on fire")

    def want() -> Any:
        start.wait(WAIT)
        return shop.bring(["a000", "a001"])

    with monkeypatch.context() as patched:
        read = patch_take(patched, lambda name: fail(name) if name == "a000" else None)
        found = [future.result(WAIT) for future in [pool.submit(want) for _ in range(4)]]
        assert sorted(read) == ["a000", "a001"]
    errors = {id(brought.failures["a000"]) for brought in found}
    assert len(errors) == 1
    error = found[0].failures["a000"]
    assert isinstance(error, AdapterFileError)
    assert isinstance(error.__cause__, RuntimeError)
    assert all(brought.names == ("a001",) for brought in found)
    assert shop.statistics.failures == 1
    assert shop.bring(["a000"]).names == ("a000",)


def test_who_waits_goes_on_when_the_loader_dies(
    root: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt in the thread that reads is that thread's alone: another one reads in its place."""
    shop, entered = store(root), threading.Event()

    def interrupt_once(name: str) -> None:
        if not entered.is_set():
            entered.set()
            time.sleep(0.3)
            raise KeyboardInterrupt

    read = patch_take(monkeypatch, interrupt_once)

    def first() -> str:
        try:
            shop.bring(["a000"])
        except KeyboardInterrupt:
            return "interrupted"
        return "brought"

    dying = pool.submit(first)
    assert entered.wait(WAIT)
    waiting = [pool.submit(shop.bring, ["a000"]) for _ in range(3)]
    assert dying.result(WAIT) == "interrupted"
    assert all(future.result(WAIT).names == ("a000",) for future in waiting)
    assert read == ["a000", "a000"]


def test_a_refresh_sees_what_was_written_before_it(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that began earlier does not count for it, and residents are served while it reads."""
    folder = write(tmp_path / "mood", 1)
    shop, reading, go = store(tmp_path), threading.Event(), threading.Event()

    def hold_first(name: str) -> None:
        if not reading.is_set():
            reading.set()
            assert go.wait(WAIT)

    read = patch_take(monkeypatch, hold_first)
    loading = pool.submit(shop.bring, ["mood"])
    assert reading.wait(WAIT)
    refreshing = pool.submit(shop.refresh, "mood")
    go.set()
    loading.result(WAIT)
    refreshing.result(WAIT)
    assert read == ["mood", "mood"]
    write(folder, 2)
    reading.clear()
    go.clear()
    refreshing = pool.submit(shop.refresh, "mood")
    assert reading.wait(WAIT)
    assert shop.bring(["mood"]).names == ("mood",)
    go.set()
    refreshing.result(WAIT)
    assert is_like(answers(shop._residency.bank, ["mood"])[0], expected(folder))


SECONDS, NAMES, RESIDENT = 4.0, 200, 8


def test_no_answer_is_torn(tmp_path: Path) -> None:
    """200 names, 8 resident: threads ask and evict, one is rewritten and refreshed, one is cut while it serves."""
    folders = [tmp_path / name for name in stock(tmp_path, 20)]
    right = {f"n{number:03}": [expected(folders[number % 20])] for number in range(NAMES)}
    both = [pack(made("moving", seed), None) for seed in (31, 36)]
    versions = []
    for stored in both:
        versions.append(expected(adapter_file.write(tmp_path / "moving", stored)))
    right |= {"moving": versions, "shaky": [expected(write(tmp_path / "shaky", 40))]}
    assert are_distinct([*(found[0] for found in list(right.values())[:20]), *versions, right["shaky"][0]])
    places = {name: folders[int(name[1:]) % 20] for name in right if name.startswith("n")}
    shop = store({**places, "moving": tmp_path / "moving", "shaky": tmp_path / "shaky"}, RESIDENT)
    bank, over = shop._residency.bank, threading.Event()
    wrong: list[object] = []
    served: list[str] = []

    def guarded(work: Callable[[random.Random], None], seed: int) -> None:
        draw = random.Random(seed)
        try:
            while not over.is_set():
                work(draw)
        except BaseException as error:
            wrong.append(error)
            raise

    def ask(draw: random.Random) -> None:
        names = [
            *draw.sample(sorted(places), draw.randint(1, 3)),
            *draw.sample(("moving", "shaky"), draw.randint(0, 2)),
        ]
        brought = shop.bring(names)
        asked = list(brought.names)
        if set(brought.failures) - {"shaky"} or not asked:
            wrong.extend(brought.failures.values())
            return
        for name, answer in zip(asked, answers(bank, asked, brought.contents), strict=True):
            served.append(name)
            if not any(is_like(answer, one) for one in right[name]):
                wrong.append((name, answer))

    def rewrite(draw: random.Random) -> None:
        adapter_file.write(tmp_path / "moving", draw.choice(both))
        shop.refresh("moving")

    whole = (tmp_path / "shaky" / ADAPTER).read_bytes()

    def cut(draw: random.Random) -> None:
        with (tmp_path / "shaky" / ADAPTER).open("r+b") as file:
            file.truncate(draw.randrange(len(whole)))
            time.sleep(0.01)
            file.seek(0)
            file.write(whole)
        time.sleep(0.03)

    works = [ask, ask, ask, ask, rewrite, cut]
    threads = [threading.Thread(target=guarded, args=(work, seed), daemon=True) for seed, work in enumerate(works)]
    shop.pin("n007")
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    over.set()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert not wrong
    assert len(served) > 20
    assert len(shop.resident) <= RESIDENT
    assert "n007" in shop.resident
    assert set(bank.residents) == set(shop.resident)
    assert shop.statistics.evictions > 0
