"""The shape of the source, held by reading it: who may import whom, how long a file may be, what must be documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import petune

ROOT = Path(petune.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LONGEST_FILE = 300

# From the ground up. A room may import itself and the rows below it, never its own row or a higher one.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("lookup", "patterns"),
    ("knobs",),
    ("config",),
    ("methods", "tasks", "metrics"),
    ("model",),
    ("data",),
    ("storage",),
    ("doctor",),
    ("training",),
    ("report",),
    ("residents",),
    ("mixed",),
    ("tuner", "adapted"),
    ("combining", "converting", "joint"),
    ("cli",),
    ("__init__", "__main__"),
)
HEIGHT = {room: height for height, row in enumerate(LAYERS) for room in row}

# Third parties that only some places may import.
FENCES = {
    "accelerate": ("training/",),
    "bitsandbytes": ("model/quantizing.py",),
    "safetensors": ("storage/",),
    "datasets": ("data/", "metrics/"),
    "evaluate": ("metrics/",),
    "peft": ("methods/peft.py", "storage/peft_format.py"),
    "pydantic": ("cli/",),
    "typer": ("cli/",),
    "yaml": ("cli/",),
    "jinja2": ("report/", "tasks/_templates.py"),
    "matplotlib": ("report/",),
}
VAGUE = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "handler", "handlers", "misc"}


def room_of(place: str) -> str:
    """`methods/lora.py` -> `methods`, `config.py` -> `config`."""
    return place.split("/")[0].removesuffix(".py")


def imports(tree: ast.AST, place: str) -> Iterator[str]:
    """Dotted names of all modules that a file imports, those inside functions and relative ones included."""
    package = ["petune", *place.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            if source == "petune":
                yield from (f"petune.{alias.name}" for alias in node.names)


def trespasses(source: str, place: str) -> list[str]:
    """What a file imports although it may not, in words."""
    wrong = []
    for name in imports(ast.parse(source), place):
        top, *rest = name.split(".")
        if top in FENCES and not place.startswith(FENCES[top]):
            wrong.append(f"{place} imports {name}; only {' and '.join(FENCES[top])} may")
        if top == "petune" and rest:
            here, there = room_of(place), rest[0]
            if there in HEIGHT and here != there and HEIGHT[there] >= HEIGHT[here]:
                wrong.append(f"{place} imports {name}, which is not below it")
    return wrong


def public_things(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The public functions and classes of a module."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_keeps_to_its_place(path: Path) -> None:
    """It imports only downward and within the fences, is short, has a telling name, and documents what is public."""
    place, source = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    assert room_of(place) in HEIGHT, f"{place}: give the room {room_of(place)!r} its row in LAYERS"
    assert not trespasses(source, place)
    assert source.count("\n") <= LONGEST_FILE, f"{place} has more than {LONGEST_FILE} lines; split it by what it does"
    words = {word for part in Path(place).with_suffix("").parts for word in part.lower().split("_")}
    assert not words & VAGUE, f"{place}: name it by what is in it"
    tree = ast.parse(source)
    assert ast.get_docstring(tree), f"{place} has no docstring"
    bare = [node.name for node in public_things(tree) if not ast.get_docstring(node)]
    assert not bare, f"{place}: no docstring on {bare}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_methods_are_documented(path: Path) -> None:
    """Each public method has a docstring, its own or that of the contract it fulfils."""
    if path.stem == "__main__":
        return  # importing it runs it
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    bare = [
        f"{cls.__name__}.{name}"
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and not cls.__name__.startswith("_")
        for name, thing in vars(cls).items()
        if not name.startswith("_") and name not in getattr(cls, "__dataclass_fields__", ())
        if inspect.isfunction(thing) or isinstance(thing, property | classmethod)
        if not inspect.getdoc(getattr(cls, name))
    ]
    assert not bare


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("from petune.tuner import Tuner", "model/sites.py"),
        ("from petune import tuner", "methods/lora.py"),
        ("import petune.tasks.base", "methods/lora.py"),
        ("def late():\n    from ..training import loop", "storage/store.py"),
        ("from petune.methods.base import Method", "config.py"),
        ("import accelerate", "model/learner.py"),
        ("from peft import LoraConfig", "methods/lora.py"),
        ("import safetensors.torch", "tuner.py"),
    ],
)
def test_a_trespass_is_seen(source: str, place: str) -> None:
    """Upward, sideways, late, relative and fenced imports are all noticed."""
    assert trespasses(source, place)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("from petune.methods.base import Method", "model/sites.py"),
        ("from petune.errors import DataError", "data/splitting.py"),
        ("from .base import Method", "methods/lora.py"),
        ("import peft", "methods/peft.py"),
        ("from petune.tuner import Tuner", "__init__.py"),
    ],
)
def test_a_rightful_import_passes(source: str, place: str) -> None:
    """Downward imports and those inside a fence are left alone."""
    assert not trespasses(source, place)


def test_contributing_lists_the_layers() -> None:
    """The layers that exist stand in CONTRIBUTING.md from the top down, and no others."""
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.split("when\nthey break:\n\n```\n")[1].split("\n```")[0]
    listed = [room for line in block.splitlines() for room in re.split(r"\s{2,}", line)[0].split(", ")]
    there = {room_of(path.relative_to(ROOT).as_posix()) for path in FILES}
    assert listed == [room for row in reversed(LAYERS) for room in row if room in there and not room.startswith("__")]
