"""What is built is what works: the wheel and the source archive, used outside of the repository."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import folder

ROOT = Path(__file__).parent.parent

OTHER_PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "petune-toys"
version = "1.0"
[project.entry-points."petune.methods"]
shift = "petune_toys:Shift"
[project.entry-points."petune.tasks"]
reviews = "petune_toys:Reviews"
"""
OTHER_SOURCE = '''
"""A second package: the smallest method, and a task with its own default column."""
import torch
from torch import nn
from petune.knobs import knobs
from petune.methods.base import AdapterLayer, Method
from petune.tasks.sequence_classification import SequenceClassification


class ShiftLayer(AdapterLayer):
    def __init__(self, width):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x, y):
        return y + self.shift


@knobs
class Shift(Method):
    def roles(self):
        return ("query", "value")

    def layer(self, site):
        return ShiftLayer(site.d_out)


@knobs
class Reviews(SequenceClassification):
    text: str | None = "review"
'''
THREE_LINES = """
import sys
from petune import TrainConfig, Tuner
import petune
folder, out, texts = sys.argv[1], sys.argv[2], ["a great lovely film", "an awful boring film"]
rows = [{"text": f"{word} film", "label": word} for word in ("great", "awful") * 8]
tuner = Tuner(folder).fit(rows, config=TrainConfig(epochs=1, progress="off"))
answers = tuner.predict(texts)
assert Tuner.load(tuner.save(out)).predict(texts) == answers, answers
assert set(answers) <= {"great", "awful"}, answers
print(petune.__file__)
"""
OTHER_LINES = """
import sys
from petune import TrainConfig, Tuner
folder, out, texts = sys.argv[1], sys.argv[2], ["a great lovely film", "an awful boring film"]
rows = [{"review": f"{word} film", "label": word} for word in ("great", "awful") * 8]
config = TrainConfig(epochs=1, progress="off")
tuner = Tuner(folder, method="shift", task="reviews").fit(rows, config=config)
answers = tuner.predict(texts)
loaded = Tuner.load(tuner.save(out))
assert loaded.predict(texts) == answers, answers
print(type(loaded.method).__module__, type(loaded.task).__module__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command to its end and gives back what it printed; its errors are shown when it fails."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, made the way `make dist` makes them."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def outside(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel in it; dependencies are seen, the source tree is not."""
    place = tmp_path_factory.mktemp("outside")
    venv.create(place / "env")
    python = place / "env" / "bin" / "python"
    # A path file is not followed from another one, so an editable petune in the outer environment stays unseen.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    (site / "outer.pth").write_text(f"{Path(np.__file__).parent.parent}\n")
    install(python, next(built.glob("*.whl")))
    return python


def install(python: Path, wheel: Path) -> None:
    """Installs one wheel into the environment of `python`, with no index and no dependencies."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-warn-conflicts")
    run(
        sys.executable, "-m", "pip", "--python", python, "install", *quiet, "--force-reinstall", wheel, cwd=wheel.parent
    )


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """Every source file of petune is in the wheel with the mark of typed packages and the licence; no test is."""
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "petune").rglob("*.py")}
    assert sources | {"petune/py.typed"} <= names
    rest = {name for name in names if not name.startswith("petune/")}
    assert all(name.startswith("petune-0.1.0.dist-info/") for name in rest)
    assert any(name.endswith("LICENSE") for name in rest)


def test_the_metadata_has_ranges_and_no_pins(built: Path) -> None:
    """Whoever installs the wheel keeps their torch: each dependency has a tested lower bound and a cap at a major."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        told = email.message_from_bytes(wheel.read("petune-0.1.0.dist-info/METADATA"))
    needs = [line for line in told.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needs
    assert all(">=" in line and "<" in line and "==" not in line for line in needs)
    assert set(told.get_all("Provides-Extra", [])) == {
        "audio",
        "demo",
        "dev",
        "docs",
        "generation",
        "look",
        "quant",
        "report",
        "vision",
    }
    assert told["License-Expression"] == "Apache-2.0"


def test_the_pins_satisfy_the_ranges() -> None:
    """`constraints.txt` starts with torch, pins exactly, names no local build, and has every direct dependency."""
    lines = (ROOT / "constraints.txt").read_text().split()
    assert lines[0] == "torch==2.13.0"
    assert all("==" in line and "+" not in line for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert {"transformers", "peft", "accelerate", "datasets", "evaluate", "pytest", "ruff", "mypy"} <= pinned


def test_the_source_archive_is_small(built: Path) -> None:
    """It holds the package and its tests, and no results, data or weights."""
    path = next(built.glob("*.tar.gz"))
    with tarfile.open(path) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert {"petune", "tests", "pyproject.toml", "README.md", "LICENSE"} <= tops
    assert not tops & {"benchmarks", "docs", "examples"}
    assert path.stat().st_size < 1_000_000


def test_the_three_lines_work_outside_the_repository(outside: Path, tmp_path: Path) -> None:
    """A fresh environment with the wheel fits, predicts, saves and loads, and it is the wheel's petune that does."""
    script = tmp_path / "three_lines.py"
    script.write_text(THREE_LINES)
    told = run(outside, "-I", "-W", "error", script, folder("bert", tmp_path), tmp_path / "out", cwd=tmp_path)
    door = Path(told.strip().splitlines()[-1])
    assert door.is_relative_to(outside.parent.parent)
    assert (door.parent / "py.typed").is_file()


def test_a_second_package_brings_a_method_and_a_task(outside: Path, tmp_path: Path) -> None:
    """Entry points are all it takes: trained, saved and loaded by name, without a list edited anywhere."""
    project = tmp_path / "petune-toys"
    (project / "petune_toys").mkdir(parents=True)
    (project / "pyproject.toml").write_text(OTHER_PROJECT)
    (project / "petune_toys" / "__init__.py").write_text(OTHER_SOURCE)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", project, cwd=project)
    install(outside, next(project.glob("*.whl")))
    script = tmp_path / "other_lines.py"
    script.write_text(OTHER_LINES)
    told = run(outside, "-I", "-W", "error", script, folder("bert", tmp_path), tmp_path / "out", cwd=tmp_path)
    assert told.split()[-2:] == ["petune_toys", "petune_toys"]
