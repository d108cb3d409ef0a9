"""The store: what is on disk, what is resident, who leaves, and what is said when something is wrong."""

from __future__ import annotations

import copy
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from petune.errors import AdapterError, AdapterFileError, ConfigError, MergeError, RouteError
from petune.model.bank import Bank
from petune.storage import shelf
from petune.storage.capacity import Capacity, bytes_of
from petune.storage.store import AdapterStore
from tests.conformance.subjects import open_backbone
from tests.storage.stocking import answers, are_distinct, expected, is_like, made, stock, store, write

LORA = ("lora", {"rank": 4}, "single")
ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with six adapters; tests that change files take `own`."""
    place = tmp_path_factory.mktemp("adapters")
    stock(place, 6)
    return place


@pytest.fixture
def own(root: Path, tmp_path: Path) -> Path:
    """A copy of the directory that a test may change."""
    return Path(shutil.copytree(root, tmp_path / "own"))


def test_a_directory_is_read_only_when_names_are_used(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Construction opens no file and lists nothing; sub-directories are names, files and hidden ones are not."""
    (own / "notes.txt").write_text("no adapter")
    (own / ".git").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", None)
        patched.setattr("builtins.open", None)
        shop = AdapterStore(own)
    assert shop.names == tuple(f"a{number:03}" for number in range(6))
    write(own / "late", 7)
    assert "late" in shop.names
    bound = store(own)
    assert bound.bring(["late"]).names == ("late",)


def test_lists_and_mappings_name_their_folders(root: Path) -> None:
    """A list calls each by the last part of its path, a mapping as it says; two of one name are an error."""
    assert AdapterStore([root / "a001", f"{root}/a000/"]).names == ("a000", "a001")
    named = store({"mood": root / "a002"})
    assert named.names == ("mood",)
    assert is_like(answers(named._residency.bank, ["mood"], named.bring(["mood"]).contents)[0], expected(root / "a002"))
    with pytest.raises(ConfigError, match=r"Two folders are called 'a000'.*mapping"):
        AdapterStore([root / "a000", "elsewhere/a000"])
    with pytest.raises(ConfigError, match="cannot name an adapter"):
        AdapterStore({"a/b": root / "a000"})


def test_places_that_are_none(root: Path) -> None:
    """A directory that is not there, and an adapter folder in place of the directory around it, are told at once."""
    with pytest.raises(ConfigError, match="There is no directory"):
        AdapterStore(root / "nowhere")
    with pytest.raises(ConfigError, match="is an adapter folder itself"):
        AdapterStore(root / "a000")


@pytest.mark.parametrize("resident", [0, -3, True, 1.5, "64", "much", "0MB", "3 XB", None])
def test_capacities_that_are_none(root: Path, resident: object) -> None:
    """A number of at least one, or bytes with their unit; all else is refused."""
    with pytest.raises(ConfigError, match=r"no capacity.*'200MB'"):
        AdapterStore(root, resident)  # type: ignore[arg-type]


def test_units_of_bytes() -> None:
    """Decimal and binary units, in either case."""
    sizes = {"10B": 10, "2kb": 2000, "1.5MB": 1_500_000, "1 GB": 10**9, "1KiB": 1024, "2 mib": 2**21, "1GiB": 2**30}
    assert {text: Capacity.of(text).bytes for text in sizes} == sizes


def test_one_store_serves_one_model(root: Path) -> None:
    """It must be bound, may be bound to the same bank again, and not to another."""
    shop = AdapterStore(root)
    assert shop.resident == shop.pinned == ()
    assert shop.statistics.loads == 0
    with pytest.raises(ConfigError, match="serves no model"):
        shop.bring(["a000"])
    bank = Bank(open_backbone("bert"))
    assert shop.bind(bank).bind(bank) is shop
    with pytest.raises(ConfigError, match="another model"):
        shop.bind(Bank(open_backbone("bert")))


def test_the_answers_are_those_of_the_adapters(root: Path) -> None:
    """What was brought answers in one mixed batch as each does alone, whatever method, size and head it has."""
    shop = store(root)
    brought = shop.bring(shop.names)
    assert brought.names == shop.names
    assert not brought.failures
    alone = [expected(root / name) for name in shop.names]
    assert are_distinct(alone)
    found = answers(shop._residency.bank, shop.names, brought.contents)
    assert all(is_like(one, right) for one, right in zip(found, alone, strict=True))


def test_the_least_recently_used_leaves(root: Path) -> None:
    """A use makes young again; whoever was not used for longest leaves, and what a call names stays."""
    shop = store(root, 3)
    for name in ("a000", "a001", "a002", "a000"):
        shop.bring([name])
    assert shop.resident == ("a001", "a002", "a000")
    shop.bring(["a003"])
    assert shop.resident == ("a002", "a000", "a003")
    shop.bring(["a002", "a004"])
    assert shop.resident == ("a003", "a002", "a004")
    counted = shop.statistics
    assert (counted.hits, counted.loads, counted.evictions, counted.failures) == (2, 5, 2, 0)
    assert set(shop._residency.bank.residents) == set(shop.resident)


def test_what_left_goes_on_for_the_call_that_has_it(root: Path) -> None:
    """A snapshot answers as before after everybody in it was evicted and their places were taken."""
    shop = store(root, 2)
    bank, early = shop._residency.bank, shop.bring(["a000", "a001"])
    said = answers(bank, ["a000", "a001"], early.contents)
    for name in ("a002", "a003", "a004", "a005"):
        shop.bring([name])
    again = answers(bank, ["a000", "a001"], early.contents)
    assert all(torch.equal(one, other) for one, other in zip(said, again, strict=True))
    with pytest.raises(RouteError):
        bank.frame("a000")


def test_more_names_than_places(root: Path) -> None:
    """One call cannot have more than the store keeps, and nothing is loaded for it; portions take their turn."""
    shop = store(root, 2)
    with pytest.raises(RouteError, match=r"needs 3 adapters at once.*keeps 2 adapters"):
        shop.bring(["a000", "a001", "a002", "a000"])
    assert shop.statistics.loads == 0
    assert [part.names for part in shop.portions([*shop.names, "a000"])] == [
        ("a000", "a001"), ("a002", "a003"), ("a004", "a005"),
    ]  # fmt: skip
    shop.pin("a005")
    assert [part.names for part in shop.portions(["a000", "a005", "a001"])] == [("a000", "a005"), ("a001",)]
    with pytest.raises(RouteError, match="3 adapters at once, the pinned ones included"):
        shop.bring(["a000", "a001"])


def test_pinned_ones_stay(root: Path) -> None:
    """Pinning loads, and what is pinned survives any traffic until it is unpinned."""
    shop = store(root, 2).pin("a000")
    for name in ("a001", "a002", "a003", "a004"):
        shop.bring([name])
    assert shop.pinned == ("a000",)
    assert shop.resident == ("a000", "a004")
    shop.unpin("a000").bring(["a005", "a001"])
    assert shop.resident == ("a005", "a001")
    with pytest.raises(RouteError, match="not pinned"):
        shop.unpin("a000")
    with pytest.raises(RouteError, match="keeps 2"):
        shop.pin("a000", "a001", "a002")
    with pytest.raises(RouteError, match="no adapter 'a0000' in the store"):
        shop.pin("a000", "a0000")
    assert shop.pinned == ()


def test_an_unknown_name_fails_alone(root: Path) -> None:
    """It is a RouteError with near names, among the failures; a name with a path in it leads nowhere."""
    shop = store(root)
    brought = shop.bring(["a000", "a0001", f"../{root.name}/a001", "..", "", "."])
    assert brought.names == ("a000",)
    assert all(isinstance(error, RouteError) for error in brought.failures.values())
    assert "Did you mean 'a001'" in str(brought.failures["a0001"])
    assert len(brought.failures) == 5


def test_bytes_as_capacity(tmp_path: Path) -> None:
    """The bytes of stacks and heads are counted; the oldest leave when a large one comes."""
    small, large = ("lora", {"rank": 2}, "single"), ("lora", {"rank": 13}, "single")
    for number, recipe in enumerate([small, small, small, large]):
        write(tmp_path / f"a{number}", number, recipe)
    one, four = (bytes_of(made("x", 0, recipe)) for recipe in (small, large))
    shop = store(tmp_path, f"{four + one}B")
    bank = shop._residency.bank
    shop.bring(["a0", "a1", "a2"])
    heads = sum(t.numel() * 4 for a in bank.residents.values() for t in a.head().values())
    assert shop.statistics.bytes == 3 * one == bank.used_bytes + heads
    shop.bring(["a3"])
    assert shop.resident == ("a2", "a3")
    assert shop.statistics.bytes == one + four
    with pytest.raises(RouteError, match="bytes"):
        shop.bring(["a0", "a3", "a1"])
    assert shop.statistics.bytes <= one + four
    assert [name for part in shop.portions(["a0", "a3", "a1", "a2"]) for name in part.names] == ["a0", "a3", "a1", "a2"]
    tiny = store(tmp_path, f"{one}B")
    assert tiny.bring(["a0"]).names == ("a0",)
    assert f"takes {four:,} bytes" in str(tiny.bring(["a3"]).failures["a3"])
    assert tiny.resident == ("a0",)  # nobody left for what does not fit


def test_a_broken_one_fails_its_own_requests_only(own: Path) -> None:
    """Truncated, empty, of another backbone, not an adapter at all: the others are served; once repaired, it is too."""
    shop = store(own)
    whole = (own / "a001" / ADAPTER).read_bytes()
    (own / "a001" / ADAPTER).write_bytes(whole[: len(whole) // 2])
    (own / "a002" / ADAPTER).unlink()
    (own / "a003" / ADAPTER).write_bytes(whole[:-4] + b"\xff\xff\xff\x7f")
    brought = shop.bring(["a000", "a001", "a002", "a003", "a004"])
    assert brought.names == ("a000", "a004")
    assert {name: type(error) for name, error in brought.failures.items()} == dict.fromkeys(
        ("a001", "a002", "a003"), AdapterFileError
    )
    assert shop.statistics.failures == 3
    (own / "a001" / ADAPTER).write_bytes(whole)
    assert shop.bring(["a001"]).names == ("a001",)


def test_a_truncated_file_does_not_reach_who_is_resident(own: Path) -> None:
    """Nothing is memory-mapped: cutting the file of a served adapter to nothing changes none of its answers."""
    shop = store(own)
    bank, contents = shop._residency.bank, shop.bring(["a000"]).contents
    said = answers(bank, ["a000"], contents)[0]
    with (own / "a000" / ADAPTER).open("r+b") as file:
        file.truncate(16)
    assert torch.equal(answers(bank, ["a000"], shop.bring(["a000"]).contents)[0], said)
    with pytest.raises(AdapterFileError, match="no whole safetensors file"):
        shop.refresh("a000")
    assert torch.equal(answers(bank, ["a000"], shop.bring(["a000"]).contents)[0], said)


def test_refresh_replaces(own: Path) -> None:
    """A changed file is seen by refresh alone; other methods and heads included, and snapshots keep the old one."""
    shop = store(own, 2)
    bank, before = shop._residency.bank, shop.bring(["a000"]).contents
    old = expected(own / "a000")
    write(own / "a000", 21)
    new = expected(own / "a000")
    assert not is_like(old, new)
    assert is_like(answers(bank, ["a000"], shop.bring(["a000"]).contents)[0], old)
    assert is_like(answers(bank, ["a000"], shop.refresh("a000").bring(["a000"]).contents)[0], new)
    assert is_like(answers(bank, ["a000"], before)[0], old)
    shop.refresh("a001").refresh("a002")  # those that are not resident are loaded
    assert shop.resident == ("a001", "a002")
    with pytest.raises(RouteError, match="in the store"):
        shop.refresh("nobody")


def test_what_was_added_by_hand_is_not_the_stores(root: Path) -> None:
    """It comes first, takes no room, never leaves, and is not refreshed; removed, the one on disk is loaded."""
    shop = store(root, 1)
    bank = shop._residency.bank
    mine = shelf.take(root / "a005", bank.backbone, "a000").adapter
    bank.seat(mine)
    brought = shop.bring(["a000", "a001"])
    assert brought.contents.adapters["a000"] is mine
    shop.bring(["a002"])
    assert shop.resident == ("a002",)
    assert "a000" in bank.residents
    with pytest.raises(AdapterError, match="added to the model by hand"):
        shop.refresh("a000")
    bank.remove("a000")
    bank.remove("a002")  # also the store's own may be taken out by hand
    assert shop.resident == ()
    assert is_like(answers(bank, ["a000"], shop.bring(["a000"]).contents)[0], expected(root / "a000"))
    assert set(bank.residents) == {"a000"}


def test_on_load_sees_what_came_off_the_shelf(root: Path) -> None:
    """It is called once per load, before the adapter is resident, with the object that will be."""
    seen: list[shelf.Taken] = []
    bank = Bank(open_backbone("bert"))
    shop = AdapterStore(root).bind(bank, lambda taken: seen.append(taken) or bank.residents.get(taken.adapter.name))
    contents = shop.bring(["a000", "a001"]).contents
    shop.bring(["a000"])
    assert [taken.adapter for taken in seen] == [contents.adapters["a000"], contents.adapters["a001"]]


def test_while_merged_nothing_is_loaded(root: Path) -> None:
    """Residents are found, others fail with a MergeError, and nobody leaves; afterwards all is as before."""
    shop = store(root, 2)
    bank = shop._residency.bank
    shop.bring(["a000", "a002"])
    bank.merge("a000")
    try:
        assert shop.bring(["a000"]).names == ("a000",)
        assert isinstance(shop.bring(["a001"]).failures["a001"], MergeError)
    finally:
        bank.unmerge()
    assert shop.bring(["a001"]).names == ("a001",)
    assert len(shop.resident) == 2


def test_a_deep_copy_is_a_store_of_its_own(root: Path) -> None:
    """Copied together with its bank, it goes on with the same residents and disturbs the original no more."""
    shop = store(root, 2)
    shop.bring(["a000", "a001"])
    twin = copy.deepcopy(shop)
    assert twin._residency.bank is not shop._residency.bank
    twin.bring(["a002"])
    assert (shop.resident, twin.resident) == (("a000", "a001"), ("a001", "a002"))


def test_long_traffic_leaves_no_empty_stacks(tmp_path: Path) -> None:
    """200 adapters of ranks from 1 to 64, 8 resident, random calls: memory stays in proportion, LRU as told."""
    ranks = (1, 2, 4, 8, 16, 32, 64)
    for rank in ranks:
        write(tmp_path / f"rank{rank}", rank, ("lora", {"rank": rank}, "single"))
    folders = {f"a{number:03}": tmp_path / f"rank{ranks[number % 7]}" for number in range(200)}
    shop, draw, order = store(folders, 8), random.Random(3), list[str]()
    bank, worst = shop._residency.bank, 0
    for _ in range(60):
        names = draw.sample(sorted(folders), draw.randint(1, 3))
        assert shop.bring(names).names == tuple(names)
        order = [*(name for name in order if name not in names), *names][-8:]
        assert set(shop.resident) == set(order)
        worst = max(worst, bank.allocated_bytes)
    # Eight of the largest, in stacks that have doubled, are the most that eight residents can ever need.
    assert worst <= 2.1 * 8 * bytes_of(made("x", 0, ("lora", {"rank": 64}, "single")))
    small = [name for name, folder in folders.items() if folder.name == "rank1"][:16]
    for name in small:  # what the large ones leave empty is given back
        shop.bring([name])
    assert bank.allocated_bytes <= 2.1 * bank.used_bytes
