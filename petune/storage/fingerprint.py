"""Which backbone this is: a digest of its tensors as they are stored, before any cast, without head parts.

Formula: sha256 over the lines `name dtype shape sha256(bytes)`, names sorted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from petune.errors import AdapterFileError
from petune.storage import container, strict_json

_TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
          "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip
_FLOATS = ("float64", "float32", "float16", "bfloat16")


class _Part(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    sha256: str


_seen: dict[tuple[str, int, int], dict[str, _Part]] = {}
"""(path, size, mtime_ns) -> the digests of that file's tensors; a changed file is another key."""


def backbone_fingerprint(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of tensors in memory.

    Args:
        named_tensors: names inside the backbone, each tensor once.

    Examples:
        >>> import torch
        >>> a = backbone_fingerprint([("w", torch.zeros(2))])
        >>> a == backbone_fingerprint([("w", torch.zeros(2))]), a == backbone_fingerprint([("w", torch.ones(2))])
        (True, False)
    """
    return _combined(
        {
            name: _Part(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), container.digest(tensor))
            for name, tensor in named_tensors
        }
    )


def checkpoint_fingerprint(folder: str | Path, names: Collection[str], prefix: str) -> tuple[str, str] | None:
    """The same fingerprint from a checkpoint on disk, without loading the model.

    Args:
        folder: a local transformers folder with `model.safetensors`, or with shards and their index.
        names: the backbone's own tensor names (head parts left out).
        prefix: the model's `base_model_prefix`, such as `bert`: a `BertForMaskedLM` checkpoint says `bert.encoder...`.

    Returns:
        The fingerprint and the dtype as stored (that of most floating-point elements), or None when the folder is
        not local, has no safetensors, or lacks one of the names.
    """
    files = _files(Path(folder))
    if not files:
        return None
    try:
        stored = {name: part for path in files for name, part in _parts(path).items()}
    except (AdapterFileError, OSError):
        return None
    stored = {_modern(name): part for name, part in stored.items()}
    found = {}
    for name in names:
        part = stored.get(f"{prefix}.{name}") if prefix else None
        part = part or stored.get(name)
        if part is None:
            return None
        found[name] = part
    return _combined(found), _main_dtype(found.values())


def checkpoint_folder(source: str) -> Path | None:
    """Where the files of a checkpoint lie: the folder itself, or the cache of a hub id; None: not on this machine."""
    if source and Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(source, "config.json")
    except ValueError:  # neither a folder nor an id
        return None
    return Path(found).parent if isinstance(found, str) else None


def _combined(parts: Mapping[str, _Part]) -> str:
    lines = (f"{name} {part.dtype} {list(part.shape)} {part.sha256}\n" for name, part in sorted(parts.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _main_dtype(parts: Iterable[_Part]) -> str:
    counts: dict[str, int] = {}
    for part in parts:
        elements = 1
        for n in part.shape:
            elements *= n
        if part.dtype in _FLOATS:
            counts[part.dtype] = counts.get(part.dtype, 0) + elements
    return max(counts, key=lambda dtype: counts[dtype]) if counts else "none"


def _modern(name: str) -> str:
    """Checkpoints of old TensorFlow descent say gamma and beta."""
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint; none where there are none, or where the index points elsewhere."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        return []
    try:
        shards = set(strict_json.loads(index.read_bytes(), source=str(index))["weight_map"].values())
    except (AdapterFileError, KeyError, AttributeError, OSError):
        return []
    if not all(isinstance(name, str) and Path(name).name == name for name in shards):
        return []
    paths = [folder / name for name in sorted(shards)]
    return paths if all(path.is_file() for path in paths) else []


def _parts(path: Path) -> dict[str, _Part]:
    """name -> dtype, shape and digest of every tensor of one file, read in pieces and remembered."""
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _seen:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            file.seek(0)
            head = file.read(8 + min(length, container.MAX_HEADER_BYTES))
            entries = container.header(head, str(path), size=status.st_size).entries
            _seen[key] = {
                name: _Part(_TORCH[entry.dtype], entry.shape, _sha256(file, entry)) for name, entry in entries.items()
            }
    return _seen[key]


def _sha256(file: object, entry: container.Entry, piece: int = 1 << 22) -> str:
    made = hashlib.sha256()
    file.seek(entry.begin)  # type: ignore[attr-defined]
    left = entry.end - entry.begin
    while left:
        data = file.read(min(piece, left))  # type: ignore[attr-defined]
        if not data:
            break
        made.update(data)
        left -= len(data)
    return made.hexdigest()
