"""What the examples in the docstrings stand on: a tiny backbone and a few rows, under the names that they use."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _names_of_the_examples(request: pytest.FixtureRequest) -> None:
    """`backbone` and `rows` in every docstring, made only where a docstring asks for them."""
    item: Any = request.node
    if isinstance(item, pytest.DoctestItem) and "backbone" in (item.dtest.docstring or ""):
        from tests import tiny

        names = {"backbone": str(tiny.folder("bert", request.getfixturevalue("tmp_path"))), "rows": tiny.rows(16)}
        item.dtest.globs.update(names)
