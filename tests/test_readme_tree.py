"""The file tree in the README is the real one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from petune.lookup import names

ROOT = Path(__file__).parent.parent
LINE = re.compile(r"^((?:│   |    )*)[├└]── ([\w.\-]+)(/?)")
UNSHOWN = {"__pycache__", "results"}


def shown() -> dict[str, set[str]]:
    """Folder -> names beneath it, of the tree in the README; folders end in a slash."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("## The tree")[1].split("```text\n")[1].split("```")[0]
    found: dict[str, set[str]] = {}
    path: list[str] = []
    for line in tree.splitlines():
        if not (match := LINE.match(line)):
            path = [line.split("/")[0]]  # the top of a tree, such as `petune/`
            continue
        depth = len(match[1]) // 4 + 1
        path = [*path[:depth], match[2]]
        found.setdefault("/".join(path[:-1]), set()).add(match[2] + match[3])
    return found


def real(folder: str) -> set[str]:
    """What is in a folder of the repository."""
    inside = [path for path in (ROOT / folder).iterdir() if path.name not in UNSHOWN]
    return {path.name + "/" * path.is_dir() for path in inside if not path.name.startswith(".")}


def test_the_four_folders_are_shown() -> None:
    """Package, benchmarks, examples and docs each have their tree."""
    assert {"petune", "benchmarks", "examples", "docs"} <= shown().keys()


@pytest.mark.parametrize("folder", sorted(shown()))
def test_a_folder_is_shown_as_it_is(folder: str) -> None:
    """Nothing is missing and nothing is invented; only `__init__.py` of folders other than petune may be left out."""
    there = real(folder) - (set() if folder == "petune" else {"__init__.py"})
    assert shown()[folder] - {"__init__.py"} == there - {"__init__.py"}


def test_nothing_is_shown_twice() -> None:
    """Each entry of the tree has one line, and each subject of what petune does one point."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("## The tree")[1].split("```text\n")[1].split("```")[0]
    for part in tree.split("\n\n"):
        entries = [match[0] for line in part.splitlines() if (match := LINE.match(line))]
        assert len(entries) == len(set(entries))
    points = re.findall(r"^- (\*\*.+?\*\*)", text, re.MULTILINE)
    assert points and len(points) == len(set(points))


@pytest.mark.parametrize("room", ["methods", "tasks", "metrics"])
def test_every_name_is_told(room: str) -> None:
    """The README names every method, task and metric that is in the box."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in names(room) if name not in text and name.replace("-", "_") not in text]
    assert not missing
