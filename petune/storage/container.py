"""Bytes of a safetensors file, to and from: checked before anything is believed, never mapped, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from petune.errors import AdapterFileError
from petune.storage import strict_json

MAX_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""
MAX_FILE_BYTES = 16 * 1024**3
MAX_TENSORS = 100_000
"""Adapters of the largest mixtures of experts have about this many."""

_NAMES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _NAMES.values()}
"""The dtypes that an adapter file may hold, by torch's names."""


class Entry(NamedTuple):
    """One tensor in a safetensors header; `begin` and `end` count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """What the first bytes of a safetensors file say."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def digest(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes, whatever its device and layout.

    Examples:
        >>> digest(torch.zeros(0))[:8]
        'e3b0c442'
    """
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    made = hashlib.sha256()
    if plain.numel():
        made.update(plain.view(torch.uint8).numpy().data)
    return made.hexdigest()


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file.

    Raises:
        AdapterFileError: for a dtype that adapter files do not hold.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise AdapterFileError(f"Tensor {name!r} is {tensor.dtype}.", expected=f"One of {', '.join(DTYPES)}.")
    # Clones: views of one storage (stacked adapters) would be refused by safetensors, or written whole.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain)
    length = int.from_bytes(data[:8], "little")
    # safetensors writes metadata in a random order; sorted, the same adapter is the same bytes.
    listed = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + length])}
    text = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise AdapterFileError(f"The manifest needs {len(text)} bytes.", expected=f"At most {MAX_HEADER_BYTES}.")
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


class UnreadableError(AdapterFileError):
    """What is at a path cannot be read: it does not open, is no plain file, or has too many bytes."""


def read_bytes(path: Path, *, limit: int = MAX_HEADER_BYTES, tensors: bool = False) -> bytes:
    """All bytes of a file, in private memory: a later change of the file cannot reach what was loaded.

    Args:
        limit: the most bytes that are read.
        tensors: it is a safetensors file, whose header is checked against its size before the rest is read.

    Raises:
        UnreadableError: no regular file (a pipe would hang), too large, unreadable.
        AdapterFileError: with `tensors`, a header that is not that of the file.
    """
    file, size = _opened(path)
    with file:
        if size > limit:
            raise UnreadableError(f"{path} has {size} bytes.", expected=f"At most {limit} are read.")
        try:
            first = _first(file, size) if tensors else b""
            if tensors:
                header(first, str(path), size)  # a hole of many gigabytes behind a small header is not read
            return first + file.read()
        except OSError as error:
            raise UnreadableError(f"{path} could not be read ({error.strerror}, errno {error.errno}).") from error


def read_header(path: Path) -> Header:
    """The header of a safetensors file of any size; its tensors stay on the disk.

    Raises:
        UnreadableError: as `read_bytes`.
        AdapterFileError: no whole container.
    """
    file, size = _opened(path)
    with file:
        try:
            first = _first(file, size)
        except OSError as error:
            raise UnreadableError(f"{path} could not be read ({error.strerror}, errno {error.errno}).") from error
    return header(first, str(path), size)


def _opened(path: Path) -> tuple[BinaryIO, int]:
    """A plain file, and how many bytes it has; a pipe is not waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise UnreadableError(f"{path} could not be opened ({error.strerror}, errno {error.errno}).") from error
    except ValueError as error:  # NUL in it
        raise UnreadableError(f"{str(path)!r} is no path.") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise UnreadableError(f"{path} is no regular file.", expected="A plain file was expected.")
    return os.fdopen(handle, "rb"), status.st_size


def _first(file: BinaryIO, size: int) -> bytes:
    """The bytes up to the end of the header."""
    first = file.read(8)
    length = int.from_bytes(first, "little") if size >= 8 else 0
    return first + file.read(min(length, MAX_HEADER_BYTES))


def header(data: bytes, source: str, size: int | None = None) -> Header:
    """Parses and checks the header of a safetensors file.

    Args:
        data: the file, or at least its header.
        size: bytes of the whole file, when `data` is only the header.

    Raises:
        AdapterFileError: truncated, absurd lengths, offsets that overlap or leave holes, broken JSON.
    """
    size = len(data) if size is None else size
    if size < 8:
        raise _broken(source, f"it has {size} bytes, too few for a header")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES or 8 + length > size:
        raise _broken(source, f"its header claims {length} bytes, the file has {size}")
    if data[8:9] != b"{":
        raise _broken(source, "its header does not start with '{'")
    listed = data.count(b'"data_offsets"', 8, 8 + length)  # before the parser makes objects of them
    if listed > MAX_TENSORS:
        raise _broken(source, f"its header lists {listed} tensors, at most {MAX_TENSORS} are read")
    found = strict_json.loads(data[8 : 8 + length], source=f"The header of {source}")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(source, "its '__metadata__' is no mapping of strings")
    entries = {name: _entry(source, name, raw, 8 + length) for name, raw in found.items()}
    _check_span(source, entries, 8 + length, size)
    return Header(entries, metadata)


def unpack(data: bytes, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        AdapterFileError: whatever is wrong with the bytes, with the file's name.
    """
    found = header(data, source)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the parser's own errors name no file
        raise _broken(source, str(error)) from error
    return tensors, found.metadata


def bytes_of(dtype: str) -> int:
    """Bytes of one element of a dtype in safetensors' spelling.

    Examples:
        >>> bytes_of("BF16")
        2
    """
    return _NAMES[dtype].itemsize


def _entry(source: str, name: str, raw: Any, start: int) -> Entry:
    """One entry of the header, types checked."""
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise _broken(source, f"tensor {name!r} has a malformed entry")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    whole = all(
        isinstance(part, list) and all(type(n) is int and 0 <= n < 2**62 for n in part) for part in (shape, offsets)
    )
    if not whole or len(offsets) != 2 or len(shape) > 16:
        raise _broken(source, f"tensor {name!r} has a malformed shape or offsets")
    if not isinstance(dtype, str) or dtype not in _NAMES:
        raise _broken(source, f"tensor {name!r} has dtype {dtype!r}; {', '.join(_NAMES)} are read")
    elements = 1
    for n in shape:
        elements *= n
    if offsets[1] - offsets[0] != elements * bytes_of(dtype):
        raise _broken(source, f"tensor {name!r} of shape {tuple(shape)} has {offsets[1] - offsets[0]} bytes")
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _check_span(source: str, entries: Mapping[str, Entry], start: int, size: int) -> None:
    """Tensors must cover the data without overlap or hole, so a load never needs more memory than the file."""
    at = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise _broken(source, f"tensor {name!r} overlaps another one or leaves a hole")
        at = entry.end
    if at != size:
        raise _broken(source, f"its tensors end at byte {at}, the file has {size}")


def _broken(source: str, why: str) -> AdapterFileError:
    return AdapterFileError(
        f"{source} is no whole safetensors file: {why}.",
        expected="The file as it was written.",
        fix="Copy or download it again (a Git LFS pointer or a cut-off download looks like this).",
    )
