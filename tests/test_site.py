"""The documentation as a site: it builds without a warning, and nothing public is missing from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import petune
from petune.lookup import names

ROOT = Path(__file__).parent.parent
DIRECTIVE = re.compile(r"^::: petune\.([\w.]+)$", re.MULTILINE)


def documented() -> set[str]:
    """The dotted names that the pages of the API show."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    return {found for page in pages for found in DIRECTIVE.findall(page.read_text(encoding="utf-8"))}


def test_every_public_name_is_in_the_api() -> None:
    """What the door gives, and every method, task and metric, has a place on a page of the API."""
    shown = documented()
    homes = {f"{home.removeprefix('petune.')}.{name}" for name, home in petune._HOMES.items()}
    whole = {home for home in homes if home in shown or home.rpartition(".")[0] in shown}
    assert homes == whole
    for room in ("methods", "tasks", "metrics"):
        assert {f"{room}.{name.replace('-', '_')}" for name in names(room)} <= shown


def test_every_task_has_a_page() -> None:
    """Each task's name is that of a page under docs/tasks, or stands on one."""
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "tasks").glob("*.md")}
    told = {name for text in pages.values() for name in re.findall(r"[`\"]([a-z0-9-]+)[`\"]", text)}
    assert set(names("tasks")) <= told | pages.keys()


def test_programs_that_read_find_every_page() -> None:
    """`llms.txt` names each page of the docs once, with a line on what it says."""
    text = (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[.+\]\((.+)\): .+$", text, re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(pages - {"index.md"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does it, beside a copy of what it is made of."""
    place = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "docs", place / "docs")
    (place / "petune").symlink_to(ROOT / "petune")
    shutil.copy(ROOT / "mkdocs.yml", place)  # a link would be followed, and the site be built beside the original
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=place, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, timeout=120)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-4000:]
    return place / "site"


def test_the_site_builds_without_a_warning(site: Path) -> None:
    """Strictly built, it has a page for each page of the docs, and the API shows docstrings and signatures."""
    assert (site / "index.html").is_file()
    assert {path.parent.name for path in site.glob("*/index.html")} >= {"start", "methods", "performance", "api"}
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert "petune.tuner.Tuner.fit" in api and "Trains a fresh adapter and keeps it" in api
