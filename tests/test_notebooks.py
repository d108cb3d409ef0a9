"""The notebooks run from top to bottom on a tiny backbone, show what they promise, and are kept without outputs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests import tiny

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
BACKBONE = "path/to/backbone"
SECONDS = 240
"""A cell may take so long; the first one imports torch in a process of its own."""
SHOWN = {
    "first_adapter": ("nothing fitted yet", "peak memory", "eval_accuracy", r"image/svg\+xml", "f1", "good", "True"),
    "many_adapters": ("topic", "eval_accuracy", "best", r"\['(good|bad)', '(sport|state|trade)'\]", "True"),
}


def read(path: Path) -> Any:
    """A notebook that is valid."""
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, and tables, curves and answers are shown."""
    folder = tiny.folder("bert", tmp_path)
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(BACKBONE in cell.source for cell in cells) == 1
    for cell in cells:
        cell.source = cell.source.replace(BACKBONE, str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = str([output for cell in cells for output in cell.outputs])
    assert not [word for word in SHOWN[path.stem] if not re.search(word, shown)], shown[-3000:]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    """Outputs and counts are not in git, so that a change can be read."""
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)
