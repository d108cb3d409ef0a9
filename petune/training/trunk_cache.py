"""The trunk cache: what the frozen trunk makes of each row, computed once and kept, unpadded, by what the row says.

    epoch without it    L block forwards + 2 k backward-equivalents a row        L blocks, the top k of them live
    epoch with it       3 k, and (L - k) once

A row is known by the pieces that enter the backbone, not by its place in the data: jobs, seeds and evaluations share
what they have in common, and a row whose pieces have changed is not found, so it is never answered with old states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from petune.model.trunk import States, Trunk
from petune.storage.trunk_file import KEY, Rows, Shelf

FILE_BYTES = 64 << 20
"""Of states that are gathered before they are written to a file."""


class TrunkCache:
    """The states of rows, in memory and beyond it in files.

    Args:
        trunk: whose states they are.
        memory_bytes: what may be held in memory.
        shelf: where the rest goes; None: there is no rest, more than `memory_bytes` is not kept.
    """

    def __init__(self, trunk: Trunk, memory_bytes: int, shelf: Shelf | None = None) -> None:
        self.trunk, self.shelf = trunk, shelf
        self._room = memory_bytes
        self._held: Rows = {}
        self._ahead: Rows = {}
        """Those of them that are on their way to a file."""
        self._filed: Rows = shelf.read() if shelf else {}

    def __len__(self) -> int:
        return len(self._held.keys() | self._filed.keys())

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(state.nbytes for row in {**self._filed, **self._held}.values() for state in row)

    def __contains__(self, key: bytes) -> bool:
        return key in self._held or key in self._filed

    def keys(self, inputs: Mapping[str, Tensor]) -> list[bytes] | None:
        """A key for each row of a batch, which is still on the CPU; None: the batch cannot be kept."""
        known = self.trunk.lengths(inputs) if "inputs_embeds" not in inputs else None
        if known is None:
            return None
        lengths: dict[str, list[int]] = {
            stack.reads: some.tolist() for stack, some in zip(self.trunk.stacks, known, strict=True)
        }
        reads = {name: "decoder" if name.startswith("decoder_") else "encoder" for name in inputs}
        # Padding depends on the batch, so it is no part of a key, and neither is what the trunk does not read.
        arrays = [
            (name.encode(), tensor.numpy(), lengths[reads[name]])
            for name, tensor in sorted(inputs.items())
            if reads[name] in lengths
        ]
        keys = []
        for row in range(len(known[0])):
            made = hashlib.blake2b(digest_size=KEY)
            for name, array, length in arrays:
                made.update(b"%s %d " % (name, length[row]))
                made.update(array[row, : length[row]].tobytes())
            keys.append(made.digest())
        return keys

    def keep(self, keys: Sequence[bytes], states: States, lengths: Sequence[Tensor]) -> None:
        """Keeps the rows of a batch that are not there yet, as far as there is room.

        Args:
            states: (B, T, D) each.
            lengths: (B,) each.
        """
        cut = [
            [state[row, :length].cpu() for row, length in enumerate(known.tolist())]
            for state, known in zip(states, lengths, strict=True)
        ]
        for key, row in zip(keys, zip(*cut, strict=True), strict=True):
            size = sum(state.nbytes for state in row)
            if key in self or (self.shelf is None and size > self._room):
                continue
            # Cloned: a view would keep the whole padded batch in memory.
            self._held[key] = kept = tuple(state.clone() for state in row)
            if size > self._room:
                self._ahead[key] = kept
            else:
                self._room -= size
        if sum(state.nbytes for row in self._ahead.values() for state in row) >= FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what is on its way to a file, from which it is read from then on."""
        if self.shelf is not None and self._ahead:
            self._filed.update(self.shelf.write(self._ahead))
            for key in self._ahead:
                del self._held[key]
            self._ahead = {}

    def publish(self) -> None:
        """Writes what is in memory to the shelf as well, for other runs and processes."""
        self.flush()
        if self.shelf is None:
            return
        for some in _portions({key: row for key, row in self._held.items() if key not in self._filed}):
            self._filed.update(self.shelf.write(some))

    def reread(self) -> None:
        """Takes in what others have written to the shelf meanwhile."""
        if self.shelf is not None:
            self._filed = {**self.shelf.read(), **self._filed}

    def states(self, inputs: Mapping[str, Tensor]) -> States | None:
        """The states of a batch, padded as it is, (B, T, D) each; None: a row is not there."""
        keys = self.keys(inputs)
        if keys is None or not all(key in self for key in keys):
            return None
        rows = [self._held.get(key) or self._filed[key] for key in keys]
        return tuple(
            _padded([row[number] for row in rows], _width(stack.reads, inputs))
            for number, stack in enumerate(self.trunk.stacks)
        )


def _portions(rows: Rows) -> Iterator[Rows]:
    """Rows in pieces of about `FILE_BYTES`: while it is written, a piece is in memory several times over."""
    some: Rows = {}
    size = 0
    for key, row in rows.items():
        some[key] = row
        size += sum(state.nbytes for state in row)
        if size >= FILE_BYTES:
            yield some
            some, size = {}, 0
    if some:
        yield some


def _padded(rows: list[Tensor], width: int) -> Tensor:
    """(B, width, D), zeros where there is nothing: every later block masks it."""
    made: Tensor = pad_sequence(rows, batch_first=True)
    return F.pad(made, (0, 0, 0, width - made.shape[1])) if made.shape[1] < width else made


def _width(reads: str, inputs: Mapping[str, Any]) -> int:
    """T of a stack's states in this batch; 0 where they are what they are: of pictures and sounds."""
    names = ("input_ids",) if reads == "encoder" else ("decoder_input_ids", "decoder_labels", "input_ids")
    return next((int(inputs[name].shape[1]) for name in names if name in inputs), 0)
