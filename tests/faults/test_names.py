"""Names for adapters: labels, never paths, modules or attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.names import BAD, GOOD, kept, refused


@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name)[:20])
def test_what_cannot_be_a_name_is_refused_clearly(name: Any) -> None:
    """Paths, control and invisible characters, blanks, and names without end, wherever a name is given."""
    assert not refused(name).wrong


@pytest.mark.parametrize("name", GOOD, ids=lambda name: ascii(name)[:20])
def test_any_other_name_goes_the_whole_way(tmp_path: Path, name: str) -> None:
    """Names of modules and devices too: no tensor is lost, no other adapter changes, no file lies outside."""
    assert not kept(name, tmp_path).wrong
