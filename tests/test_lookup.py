"""Names to classes: by file, by entry point, by import path, with near names for what does not exist."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from petune import lookup
from petune.errors import UnknownNameError
from petune.knobs import knobs
from petune.methods.base import AdapterLayer, Method, Site
from petune.methods.lora import LoRA


@knobs
class Toy(Method):
    """A method of the test's own."""

    def roles(self) -> tuple[str, ...]:
        return ("query",)

    def layer(self, site: Site) -> AdapterLayer:
        raise NotImplementedError


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that offers the method `toy`."""
    (tmp_path / "toys.py").write_text("from petune.methods.lora import LoRA as Plain\nclass Toy(Plain): pass\n")
    info = tmp_path / "toys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[petune.methods]\ntoy = toys:Toy\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("toys", None)


def test_every_file_of_a_room_is_a_name() -> None:
    """Each public file of a room is found under its own name, with dashes or underscores."""
    for room in ("methods", "tasks", "metrics"):
        for name in lookup.names(room):
            assert lookup.find(room, name) is lookup.find(room, name.replace("-", "_"))


def test_find_and_name_of_are_inverse() -> None:
    """The name of an instance finds its class again."""
    assert lookup.find("methods", "lora") is LoRA
    assert lookup.name_of("methods", LoRA()) == "lora"


def test_the_contract_is_no_name() -> None:
    """`base` and private files are not offered."""
    assert not any(name == "base" or name.startswith(("_", "-")) for name in lookup.names("methods"))
    with pytest.raises(UnknownNameError, match="no method 'base'"):
        lookup.find("methods", "base")


def test_an_unknown_name_is_answered_with_the_near_one() -> None:
    """A typo gets a suggestion; a far-off word gets the list."""
    with pytest.raises(UnknownNameError, match=r"There is no method 'lroa'\. Did you mean 'lora'\?"):
        lookup.find("methods", "lroa")
    with pytest.raises(UnknownNameError, match=r"Known: .*lora"):
        lookup.find("methods", "zzzz")


@pytest.mark.usefixtures("other_package")
def test_another_package_joins_by_entry_point() -> None:
    """An entry point is listed among the names, found, and named the same way back."""
    assert "toy" in lookup.names("methods")
    found = lookup.find("methods", "toy")
    assert found.__module__ == "toys"
    assert lookup.name_of("methods", found()) == "toy"


def test_a_class_of_the_program_is_named_by_its_path() -> None:
    """A class of no package is named `module:Class`, and found again while its module is imported."""
    name = lookup.name_of("methods", Toy())
    assert name == f"{__name__}:Toy"
    assert lookup.find("methods", name) is Toy


def test_a_name_never_causes_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's file may carry any name; one that is not imported already is unknown, and its code does not run."""
    (tmp_path / "strange.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownNameError):
        lookup.find("methods", "strange:Method")
    assert "strange" not in sys.modules


def test_a_file_holds_one_class() -> None:
    """A file without a public class of its contract, or with two, is the author's mistake and says so."""
    module = types.ModuleType("petune.methods.empty")
    with pytest.raises(TypeError, match="must hold one public Method"):
        lookup.the_class(module, "methods")


@pytest.mark.parametrize(
    ("word", "known", "sentence"),
    [
        ("lroa", ["lora", "prefix"], "Did you mean 'lora'?"),
        ("x", ["lora", "prefix"], "Known: lora, prefix."),
        ("x", [], "Known: none."),
        ("zz", [f"site{i:02}" for i in range(30)], f"Known (30): {', '.join(f'site{i:02}' for i in range(20))}, ..."),
    ],
)
def test_near_names(word: str, known: list[str], sentence: str) -> None:
    """Close words are suggested, else a few known ones are listed."""
    assert lookup.near(word, known) == sentence


@pytest.mark.parametrize(
    ("word", "options"),
    [
        ("base_model.model." + "abcdefghij" * 20, [f"base_model.model.{'abcdefghij' * 20}{i}" for i in range(80_000)]),
        ("ab" * 100, [f"{'aac' * 66}{i}" for i in range(80_000)]),
        ("a" * 100_000, ["a" * 100_000 + "b"] * 10),
    ],
    ids=["long names", "names made to be slow", "names of 100,000 characters"],
)
def test_many_long_names_are_no_long_wait(word: str, options: list[str]) -> None:
    """A file may list any number of names, and its error still comes in time."""
    began = time.process_time()
    assert lookup.near(word, options)
    assert time.process_time() - began < 2


def test_of_many_names_the_near_one_is_still_told() -> None:
    """Where not all can be compared, those that begin alike are."""
    names = [f"model.layers.{layer}.experts.{i}.down_proj.lora_A" for layer in range(40) for i in range(64)]
    assert lookup.near("model.layers.7.experts.13.down_prj.lora_A", names).startswith(
        "Did you mean 'model.layers.7.experts.13.down_proj.lora_A'"
    )
