"""Bad adapter files: what is wrong with the bytes of the safetensors container itself."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

from benchmarks.faults.adapter_folder import A, B, Kind, bytes_kind, crowded, file_of, header_kind, header_of

_WHOLE = "no whole safetensors file"
_DAMAGED = "with its digests made right it is another adapter that is as good"


def kinds() -> list[Kind]:
    """Every kind of the group."""
    return [*_lengths(), *_headers(), *_entries(), *_offsets(), *_others(), *_flips()]


def _lengths() -> list[Kind]:
    def claims(length: int) -> Callable[[bytes], bytes]:
        return lambda data: length.to_bytes(8, "little") + data[8:]

    def cut(share: float) -> Callable[[bytes], bytes]:
        return lambda data: data[: int(len(data) * share)]

    def short(data: bytes) -> bytes:
        return (int.from_bytes(data[:8], "little") - 9).to_bytes(8, "little") + data[8:]

    def long(data: bytes) -> bytes:
        return (int.from_bytes(data[:8], "little") + 8).to_bytes(8, "little") + data[8:]

    cuts = [cut(share) for share in (0.0005, 0.1, 0.4, 0.6, 0.9)]
    return [
        bytes_kind("cut off", _WHOLE, *cuts, lambda data: data[:-1], lambda data: data[:8]),
        bytes_kind("of no length", _WHOLE, lambda data: b""),
        bytes_kind("zeros", _WHOLE, lambda data: bytes(len(data))),
        bytes_kind("random bytes", _WHOLE, lambda data: random.Random(0).randbytes(len(data))),
        bytes_kind("header of 2**63 bytes", f"{_WHOLE}: its header claims", claims(2**63)),
        bytes_kind("header longer than the file", f"{_WHOLE}: its header claims", claims(1_000_000)),
        bytes_kind("header above the limit", f"{_WHOLE}: its header claims", claims(100_000_001)),
        bytes_kind("header of no length", _WHOLE, claims(0)),
        bytes_kind("header length too short", "The header of .* is not valid JSON", short),
        bytes_kind("header length too long", "The header of .* is not valid JSON", long),
        bytes_kind("length in the other byte order", _WHOLE, lambda data: data[7::-1] + data[8:]),
        bytes_kind("bytes behind the tensors", "its tensors end at byte", lambda data: data + b"more"),
        bytes_kind("twice in a row", "its tensors end at byte", lambda data: data + data),
        bytes_kind("tensors without their first bytes", "its tensors end at byte", _beheaded),
        bytes_kind("200,000 empty tensors", "lists 200000 tensors", _many),
    ]


def _beheaded(data: bytes) -> bytes:
    header, payload = header_of(data)
    return file_of(header, payload[16:])


@cache
def _many(data: bytes) -> bytes:
    header, _ = header_of(data)
    names = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)}
    return file_of({"__metadata__": header["__metadata__"], **names}, b"")


def _headers() -> list[Kind]:
    def text(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def edit(data: bytes) -> bytes:
            header, payload = header_of(data)
            return file_of(change(json.dumps(header).encode()), payload)

        return edit

    twice, json_error = "is there twice", "The header of .* is not valid JSON"
    return [
        bytes_kind("header is no JSON", json_error, text(lambda t: b"{" + t)),
        bytes_kind("header is a list", f"{_WHOLE}: its header does not start", text(lambda t: b"[" + t + b"]")),
        bytes_kind("header is a string", f"{_WHOLE}: its header does not start", text(lambda t: b'"x"')),
        bytes_kind("header is no UTF-8", json_error, text(lambda t: t.replace(b"lora_A", b"lor\xff_A"))),
        bytes_kind("header is UTF-16", f"{_WHOLE}: its header", text(lambda t: t.decode().encode("utf-16"))),
        bytes_kind("header with NULs", json_error, text(lambda t: t[:-1] + b"\0\0}")),
        bytes_kind("header nested 100,000 deep", json_error, text(lambda t: b'{"a":' + b"[" * 100_000)),
        bytes_kind("header begins with blanks", "its header does not start", text(lambda t: b"  " + t)),
        bytes_kind("header with a comma too many", json_error, text(lambda t: t[:-1] + b",}")),
        bytes_kind("header in single quotes", json_error, text(lambda t: t.replace(b'"F32"', b"'F32'"))),
        bytes_kind("header with NaN", "NaN is no JSON number", text(lambda t: t.replace(b'"F32"', b"NaN", 1))),
        bytes_kind("a tensor twice", twice, text(lambda t: t[:-1] + f',"{A}":null}}'.encode())),
        bytes_kind("60,000 tensors and one twice", twice, text(lambda t: crowded(b"null") + b"," + t[1:])),
        bytes_kind("metadata twice", twice, text(lambda t: t[:-1] + b',"__metadata__":{}}')),
        header_kind("metadata is a list", "'__metadata__' is no mapping", lambda h: h.update(__metadata__=[])),
        header_kind("metadata is null", "'__metadata__' is no mapping", lambda h: h.update(__metadata__=None)),
        header_kind("metadata holds numbers", "'__metadata__' is no mapping", lambda h: h["__metadata__"].update(petune=3)),
        header_kind("metadata without the manifest", "has no manifest in its metadata", lambda h: h.pop("__metadata__")),
        header_kind("manifest without its digest", "sha256 differs", lambda h: h["__metadata__"].pop("petune_sha256")),
    ]  # fmt: skip


def _entries() -> list[Kind]:
    def entry(name: str, words: str, edit: Callable[[dict[str, Any]], object]) -> Kind:
        return header_kind(name, words, lambda header: edit(header[A]))

    malformed, shape = "lora_A.weight' has a malformed entry", "lora_A.weight' has a malformed shape or offsets"
    return [
        header_kind("entry is null", malformed, lambda h: h.update({A: None})),
        header_kind("entry is a list", malformed, lambda h: h.update({A: []})),
        entry("entry without a dtype", malformed, lambda e: e.pop("dtype")),
        entry("entry without a shape", malformed, lambda e: e.pop("shape")),
        entry("entry without offsets", malformed, lambda e: e.pop("data_offsets")),
        entry("entry with a field of its own", malformed, lambda e: e.update(file="/etc/passwd")),
        entry("dtype that does not exist", "has dtype 'F33'", lambda e: e.update(dtype="F33")),
        entry("dtype that adapters do not have", "has dtype 'F8_E4M3'", lambda e: e.update(dtype="F8_E4M3")),
        entry("dtype of another size", "of shape .* has \\d+ bytes", lambda e: e.update(dtype="F64")),
        entry("dtype is a number", "has dtype 3", lambda e: e.update(dtype=3)),
        entry("dtype is a list", "has dtype|malformed", lambda e: e.update(dtype=["F32"])),
        entry("shape is negative", shape, lambda e: e.update(shape=[-4, -32])),
        entry("shape with fractions", shape, lambda e: e.update(shape=[4.0, 32.0])),
        entry("shape of booleans", shape, lambda e: e.update(shape=[True, 128])),
        entry("shape that overflows", "of shape .* has \\d+ bytes", lambda e: e.update(shape=[2**61, 2**61])),
        entry("shape is a string", shape, lambda e: e.update(shape="4x32")),
        entry("shape of 100 sizes", shape, lambda e: e.update(shape=[1] * 98 + [4, 32])),
        entry("shape of another size", "of shape .* has \\d+ bytes", lambda e: e.update(shape=[4, 33])),
    ]


def _offsets() -> list[Kind]:
    def moved(begin: int, end: int) -> Callable[[dict[str, Any]], object]:
        def edit(header: dict[str, Any]) -> None:
            at = header[B]["data_offsets"]
            header[B]["data_offsets"] = [at[0] + begin, at[1] + end]

        return edit

    def onto(header: dict[str, Any]) -> None:
        header[A]["data_offsets"] = header[B]["data_offsets"]

    malformed = "lora_A.weight' has a malformed shape or offsets"
    return [
        header_kind("offsets that overlap", "overlaps another one or leaves a hole", moved(-4, -4)),
        header_kind("two tensors at one place", "overlaps another one or leaves a hole|of shape", onto),
        header_kind("offsets beyond the end", "overlaps another one or leaves a hole", moved(10**6, 10**6)),
        header_kind("offsets that are too far apart", "of shape .* has \\d+ bytes", moved(0, 4)),
        header_kind("offsets in reverse", "of shape .* has -\\d+ bytes", lambda h: h[A]["data_offsets"].reverse()),
        header_kind("negative offsets", malformed, lambda h: h[A].update(data_offsets=[-512, 0])),
        header_kind("offsets beyond 64 bits", malformed, lambda h: h[A].update(data_offsets=[2**64, 2**64 + 512])),
        header_kind("three offsets", malformed, lambda h: h[A].update(data_offsets=[0, 256, 512])),
        header_kind("offsets as strings", malformed, lambda h: h[A].update(data_offsets=["0", "512"])),
    ]


def _others() -> list[Kind]:
    def zipped(data: bytes) -> bytes:
        with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
            archive.writestr("adapter/data.pkl", pickle.dumps({}))
        return made.getvalue()

    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 5028\n"
    return [
        bytes_kind("a Git LFS pointer", _WHOLE, lambda data: pointer),
        bytes_kind("a page in HTML", _WHOLE, lambda data: b"<!doctype html><html><body>404</body></html>"),
        bytes_kind("an answer in JSON", _WHOLE, lambda data: b'{"error": "Repository not found"}'),
        bytes_kind("packed by gzip", _WHOLE, gzip.compress),
        bytes_kind("a zip archive, as torch.save makes", _WHOLE, zipped),
        bytes_kind("a GGUF file", _WHOLE, lambda data: b"GGUF\3\0\0\0" + data),
        bytes_kind("line ends turned into CRLF", _WHOLE, lambda data: b"\r\n" + data.replace(b"\n", b"\r\n")),
        bytes_kind("in base64", _WHOLE, lambda data: data.hex().encode()),
    ]


def _flips() -> list[Kind]:
    def flipped(share: float) -> Callable[[bytes], bytes]:
        def edit(data: bytes) -> bytes:
            _, payload = header_of(data)
            at = len(data) - len(payload) + int(len(payload) * share)
            return data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]

        return edit

    def zeroed(data: bytes) -> bytes:
        _, payload = header_of(data)
        return data[: len(data) - len(payload)] + bytes(512) + payload[512:]

    def swapped(data: bytes) -> bytes:
        header, payload = header_of(data)
        other = A.replace("layer.0", "layer.1")
        header[A]["data_offsets"], header[other]["data_offsets"] = (
            header[other]["data_offsets"],
            header[A]["data_offsets"],
        )
        return file_of(header, payload)

    places = [flipped(share) for share in (0.01, 0.3, 0.6, 0.99)]
    return [
        bytes_kind("a flipped bit in a tensor", "sha256 differs", *places, unsealed=_DAMAGED),
        bytes_kind("a block of zeros in a tensor", "sha256 differs", zeroed, unsealed=_DAMAGED),
        bytes_kind("two tensors swapped", "sha256 differs", swapped, unsealed=_DAMAGED),
    ]
