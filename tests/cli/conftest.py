"""The workplace of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.parts import workplace


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `parts.workplace`."""
    return workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same as the current directory."""
    monkeypatch.chdir(made)
    yield made
