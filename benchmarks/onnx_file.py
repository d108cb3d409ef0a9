"""The weights in an ONNX file and the nodes that use them, read from its bytes: protobuf's wire format, nothing else.

Field numbers are those of onnx.proto: ModelProto.graph 7; GraphProto.node 1, .initializer 5; NodeProto.input 1,
.output 2, .op_type 4; TensorProto.dims 1, .data_type 2, .name 8, .raw_data 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

FLOAT = 1
"""The data type of the weights that are kept; others (shapes, indices) are passed over."""


class Node(NamedTuple):
    """One operation."""

    kind: str
    inputs: list[str]
    outputs: list[str]


def read(path: Path) -> tuple[dict[str, np.ndarray], list[Node]]:
    """Name -> float32 array, and the nodes in their order."""
    data = memoryview(path.read_bytes())
    graph = next(part for number, part in fields(data) if number == 7)
    weights, nodes = {}, []
    for number, part in fields(graph):
        if number == 1:
            nodes.append(_node(part))
        elif number == 5 and (named := _tensor(part)) is not None:
            weights[named[0]] = named[1]
    return weights, nodes


def fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(number, content) of each field of a message: bytes, or a whole number."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _node(data: memoryview) -> Node:
    found: dict[int, list[str]] = {1: [], 2: [], 4: []}
    for number, part in fields(data):
        if number in found:
            found[number].append(bytes(part).decode())
    return Node(found[4][0], found[1], found[2])


def _tensor(data: memoryview) -> tuple[str, np.ndarray] | None:
    dims: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    for number, part in fields(data):
        if number == 1:  # one number, or several packed
            dims += [part] if isinstance(part, int) else _packed(part)
        elif number == 2:
            kind = int(part)
        elif number == 8:
            name = bytes(part).decode()
        elif number == 9:
            raw = part
    return (name, np.frombuffer(raw, np.float32).reshape(dims)) if kind == FLOAT and len(raw) else None


def _packed(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found
