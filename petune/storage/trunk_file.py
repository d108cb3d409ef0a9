"""What a trunk made of rows, kept in files that are mapped into memory and shared by runs and processes.

    <folder>/trunk-<identity>/states-<digest>.safetensors    keys (N, 16), lengths (N, stacks), states.0, states.1

A file is written whole, never changed, and named by what is in it; whoever finds it may read it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from petune.storage.atomic import make_folder, write_file
from petune.storage.container import pack

KEY = 16
"""Bytes of a row's key."""
Rows = dict[bytes, tuple[Tensor, ...]]
"""Key of a row -> its states, (pieces, D) of each stack."""


class Shelf(NamedTuple):
    """The files of one trunk.

    Args:
        folder: where they are.
        identity: of backbone and trunk; files of another one are passed over.
    """

    folder: Path
    identity: str

    @classmethod
    def of(cls, folder: str | Path, facts: Mapping[str, object]) -> Shelf:
        """The shelf in a folder for a trunk of which these are the facts."""
        identity = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]
        return cls(Path(folder) / f"trunk-{identity}", identity)

    def write(self, rows: Mapping[bytes, Sequence[Tensor]]) -> Rows:
        """Writes rows to a new file; the same rows, out of memory.

        Raises:
            AdapterFileError: the disk refuses.
        """
        some = list(rows.values())
        tensors = {
            "keys": torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(-1, KEY),
            "lengths": torch.tensor([[len(state) for state in states] for states in some]),
            **{f"states.{n}": torch.cat([states[n] for states in some]) for n in range(len(some[0]))},
        }
        name = hashlib.sha256(b"".join(rows)).hexdigest()[:16]
        path = make_folder(self.folder) / f"states-{name}.safetensors"
        write_file(path, pack(tensors, {"identity": self.identity, "checksum": str(_checksum(tensors))}))
        return self._read(path)

    def read(self) -> Rows:
        """Every row in the files that are whole and of this trunk; others are passed over."""
        found: Rows = {}
        for path in sorted(self.folder.glob("states-*.safetensors")):
            found.update(self._read(path))
        return found

    def _read(self, path: Path) -> Rows:
        if not path.is_file():  # to open a pipe is to wait for who writes to it
            return {}
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except Exception:  # damage, in whatever way the reader stumbles over it
            return {}
        if told.get("identity") != self.identity or told.get("checksum") != str(_checksum(tensors)):
            return {}
        if not _goes_together(tensors):
            return {}
        keys = tensors.pop("keys").numpy().tobytes()
        columns = tensors.pop("lengths").unbind(1)
        parts = [tensors[f"states.{n}"].split(lengths.tolist()) for n, lengths in enumerate(columns)]
        cut = (keys[start : start + KEY] for start in range(0, len(keys), KEY))
        return dict(zip(cut, zip(*parts, strict=True), strict=True))


def _goes_together(tensors: Mapping[str, Tensor]) -> bool:
    """Whether each key has its length in each stack, and each stack its pieces: a checksum is no proof of an author."""
    keys, lengths = tensors.get("keys"), tensors.get("lengths")
    if keys is None or lengths is None or keys.dtype != torch.uint8 or lengths.dtype != torch.int64:
        return False
    if lengths.ndim != 2 or keys.shape != (len(lengths), KEY) or bool((lengths < 0).any()):
        return False
    stacks = [tensors.get(f"states.{n}") for n in range(lengths.shape[1])]
    if len(tensors) != 2 + len(stacks):
        return False
    totals = lengths.sum(0).tolist()
    return all(s is not None and s.ndim == 2 and len(s) == n for s, n in zip(stacks, totals, strict=True))


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """Of all bytes, in the order of the names."""
    made = 0
    for _, tensor in sorted(tensors.items()):
        made = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, made)
    return made
