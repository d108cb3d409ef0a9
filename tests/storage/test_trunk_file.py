"""Files of the trunk cache: what is damaged, of another trunk or hostile is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from petune.storage import container, trunk_file
from petune.storage.trunk_file import Shelf

KEYS, LENGTHS, STATES = torch.zeros(1, 16, dtype=torch.uint8), torch.tensor([[2]]), torch.zeros(2, 3)
GOOD = {"keys": KEYS, "lengths": LENGTHS, "states.0": STATES}
BAD: dict[str, dict[str, Tensor]] = {
    "no keys": {"lengths": LENGTHS, "states.0": STATES},
    "no lengths": {"keys": KEYS, "states.0": STATES},
    "no states": {"keys": KEYS, "lengths": LENGTHS},
    "more states": {**GOOD, "states.1": STATES},
    "keys that are short": {**GOOD, "keys": KEYS[:, :8]},
    "keys that are flat": {**GOOD, "keys": KEYS[0]},
    "more keys": {**GOOD, "keys": KEYS.repeat(2, 1)},
    "wrong lengths": {**GOOD, "lengths": torch.tensor([[99]])},
    "negative lengths": {**GOOD, "keys": KEYS.repeat(2, 1), "lengths": torch.tensor([[-1], [3]])},
    "lengths that are no numbers": {**GOOD, "lengths": torch.tensor([[2.0]])},
    "states that are flat": {**GOOD, "states.0": STATES[:, 0]},
}


def _put(shelf: Shelf, tensors: dict[str, Tensor]) -> Path:
    shelf.folder.mkdir(parents=True, exist_ok=True)
    path = shelf.folder / "states-0.safetensors"
    facts = {"identity": shelf.identity, "checksum": str(trunk_file._checksum(tensors))}
    path.write_bytes(container.pack(tensors, facts))
    return path


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_does_not_go_together_is_passed_over(tmp_path: Path, name: str) -> None:
    """Its checksum is right: a checksum tells damage, not authors."""
    shelf = Shelf.of(tmp_path, {"a": 1})
    _put(shelf, GOOD)
    assert len(shelf.read()) == 1
    _put(shelf, BAD[name])
    assert shelf.read() == {}


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """Nor does a folder of that name, or a file that is cut off."""
    shelf = Shelf.of(tmp_path, {"a": 1})
    path = _put(shelf, GOOD)
    os.mkfifo(shelf.folder / "states-1.safetensors")
    (shelf.folder / "states-2.safetensors").mkdir()
    (shelf.folder / "states-3.safetensors").write_bytes(path.read_bytes()[:-9])
    assert len(shelf.read()) == 1
