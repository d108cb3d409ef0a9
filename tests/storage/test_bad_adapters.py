"""Damaged folders: as damaged, and sealed again so that only sense can tell. Each is a clear error, none is silent."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from petune.errors import AdapterFileError
from petune.storage import container, strict_json
from petune.storage.adapter_file import read, write
from petune.storage.stored import Stored
from tests.storage import making

ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good adapter folder."""
    return write(tmp_path / "adapter", making.small())


def _refused(folder: Path, words: str = ".") -> None:
    with pytest.raises(AdapterFileError, match=words) as caught:
        read(folder)
    assert str(folder) in str(caught.value) or "adapter" in str(caught.value)


def test_cut_anywhere(folder: Path) -> None:
    """Every length shorter than the file is refused."""
    path = folder / ADAPTER
    whole = path.read_bytes()
    for length in [*range(40), *range(40, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        _refused(folder)


def test_one_flipped_bit_anywhere(folder: Path) -> None:
    """In header, manifest or tensors: refused, or (blanks, the format's name) the very same adapter."""
    path, draw = folder / ADAPTER, random.Random(0)
    whole, good = path.read_bytes(), read(folder).manifest
    for place in sorted(draw.sample(range(len(whole)), 400)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        try:
            again = read(folder)
        except AdapterFileError as error:
            assert str(folder) in str(error)
        else:
            assert again.notices and again.manifest == good
            for route, pair in making.small().layers.items():
                assert all(torch.equal(again.layers[route][name], tensor) for name, tensor in pair.items())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 64,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        b"<!doctype html><html></html>",
        b"\x1f\x8b\x08\x00" + b"\0" * 50,
        b"\x80\x02}q\x00." + b"\0" * 50,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}" + b"extra",
        struct.pack("<Q", 4) + b"[{}]",
    ],
)
def test_other_things_than_safetensors(folder: Path, data: bytes) -> None:
    """Pointers, pages, archives, pickles and absurd lengths."""
    (folder / ADAPTER).write_bytes(data)
    _refused(folder, "no whole safetensors file")


def _header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / ADAPTER
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    found = json.loads(data[8 : 8 + length])
    change(found)
    text = json.dumps(found).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


NAME = "base_model.model.classifier.bias"


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h[NAME].update(data_offsets=[0, 8]),
        lambda h: h[NAME].update(data_offsets=[8, 0]),
        lambda h: h[NAME].update(data_offsets=[-8, 0]),
        lambda h: h[NAME].update(shape=[3]),
        lambda h: h[NAME].update(shape=[1 << 40, 1 << 40]),
        lambda h: h[NAME].update(shape=[2.0]),
        lambda h: h[NAME].update(dtype="I64"),
        lambda h: h[NAME].update(dtype="F8_E4M3"),
        lambda h: h[NAME].update(extra=1),
        lambda h: h.update({NAME: []}),
        lambda h: h.update(__metadata__=[]),
        lambda h: h["__metadata__"].update(petune=3),
        lambda h: h.pop(NAME),
    ],
)
def test_a_header_that_lies(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Overlaps, holes, negative and reversed offsets, shapes that need more memory than the file has."""
    _header(folder, change)
    _refused(folder)


def test_metadata_of_nobody(folder: Path) -> None:
    """Without petune's manifest, and with nothing of peft's beside it, there is nothing to go by."""
    _header(folder, lambda h: h["__metadata__"].pop("petune"))
    (folder / "adapter_config.json").unlink()
    _refused(folder, "adapter_config.json")


def _resealed(folder: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    """Changes manifest and tensors and makes every digest right again."""
    path = folder / ADAPTER
    tensors, metadata = container.unpack(path.read_bytes(), "it")
    manifest = json.loads(metadata["petune"])
    change(manifest, tensors)
    if manifest.get("digests"):
        manifest["digests"] = {name: container.digest(tensor) for name, tensor in tensors.items()}
    metadata["petune"] = strict_json.dumps(manifest)
    metadata["petune_sha256"] = hashlib.sha256(metadata["petune"].encode()).hexdigest()
    path.write_bytes(container.pack(tensors, metadata))
    shutil.copy(path, folder / "copy")


A = "base_model.model.bert.layer.0.q.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, t: t[A].fill_(float("inf")), "NaN or infinite"),
        (lambda m, t: t.pop(A), "lacks the tensor"),
        (lambda m, t: t.update({"base_model.model.x": torch.ones(1)}), "belongs to nothing"),
        (lambda m, t: t.update({A: torch.ones(3, 4)}), "by the rank in the manifest"),
        (lambda m, t: t.update({A: torch.ones(2)}), "by the rank in the manifest"),
        (lambda m, t: t.update({A: torch.ones(2, 4, dtype=torch.int8)}), "Floating point"),
        (lambda m, t: m["method"]["knobs"].update(rank=3), "by the rank in the manifest"),
        (lambda m, t: m["method"]["knobs"].update(rank=None), "rank"),
        (lambda m, t: m["method"]["knobs"].update(ranks={"layer.2.q": 1}), "layer.1.q"),
        (lambda m, t: m["method"]["knobs"].update(alpha=-1), "alpha"),
        (lambda m, t: m["method"]["knobs"].update(alpha="8"), "alpha"),
        (lambda m, t: m.update(schema=9, petune="3.0"), "petune>=3.0"),
        (lambda m, t: m.pop("labels"), "labels"),
        (lambda m, t: m.update(digests={}), "no digest"),
        (lambda m, t: m["layout"].pop("head"), "layout"),
        (lambda m, t: m["layout"].update(head_at="../"), "layout"),
        (lambda m, t: m["layout"]["sites"].update(x=["lora_A"]), "lacks the tensor"),
        (lambda m, t: m["layout"]["sites"].update(x=[3]), "layout"),
        (lambda m, t: m["layout"].update(empty={}), "lacks the tensor"),
        (lambda m, t: m["layout"]["empty"].update(z={"dtype": "float32", "shape": [2**40, 0]}), "no empty tensor"),
        (lambda m, t: m["layout"]["empty"].update(z={"dtype": "float32", "shape": [4]}), "no empty tensor"),
    ],
)
def test_sealed_again_but_senseless(folder: Path, change: Any, words: str) -> None:
    """With right digests the meaning is still checked: shapes, ranks, scale, names, schema."""
    _resealed(folder, change)
    _refused(folder, words)


def test_an_error_names_the_near_tensor(folder: Path) -> None:
    """A renamed tensor is answered with the name that was meant."""
    _resealed(folder, lambda m, t: t.update({f"{A}s": t.pop(A)}))
    _refused(folder, "Did you mean.*lora_A.weights")


def test_a_changed_tensor_is_found_by_its_digest(folder: Path) -> None:
    """A value that is plausible but not what was written."""
    path = folder / ADAPTER
    tensors, metadata = container.unpack(path.read_bytes(), "it")
    tensors[A][0, 0] += 0.01
    path.write_bytes(container.pack(tensors, metadata))
    _refused(folder, "sha256 differs")


@pytest.mark.parametrize("name", ["petune.json", "adapter_config.json"])
def test_any_damage_to_an_export_is_noticed(folder: Path, name: str) -> None:
    """Flipped or cut, an export is an error or a notice; the adapter itself is always the one that was written."""
    path, draw = folder / name, random.Random(1)
    whole = path.read_bytes()
    for place in sorted(draw.sample(range(len(whole)), 150)):
        flipped = whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
        for data in (flipped, whole[:place]):
            path.write_bytes(data)
            try:
                again = read(folder)
            except AdapterFileError as error:
                assert str(folder) in str(error)
            else:
                assert again.manifest["name"] == "small"
                # Blanks between the keys mean nothing.
                assert again.notices or json.loads(data) == json.loads(whole)


def test_a_changed_manifest_is_found_without_any_export(folder: Path) -> None:
    """The adapter file alone tells that a label in it is not the one that was written."""
    path = folder / ADAPTER
    (folder / "petune.json").unlink()
    path.write_bytes(path.read_bytes().replace(b'\\"good\\"', b'\\"gold\\"'))
    _refused(folder, "sha256 differs")


def test_a_pipe_does_not_hang(folder: Path) -> None:
    """A FIFO in place of the file is refused at once."""
    (folder / ADAPTER).unlink()
    os.mkfifo(folder / ADAPTER)
    _refused(folder, "no regular file")
    (folder / ADAPTER).unlink()
    write(folder, making.small())
    (folder / "petune.json").unlink()
    os.mkfifo(folder / "petune.json")
    _refused(folder, "no regular file")


def test_a_huge_sparse_file_is_not_read(folder: Path) -> None:
    """Its size is looked at before memory is asked for."""
    with (folder / ADAPTER).open("r+b") as file:
        file.truncate(container.MAX_FILE_BYTES + 1)
    _refused(folder, "At most")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "There is no folder.*adapter_one"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.mkdir(), "holds no adapter"),
        (lambda p: _files(p, "config.json", "model.safetensors"), r"Tuner\(folder\)"),
        (lambda p: _files(p, "adapter_config.json"), "lacks adapter_model.safetensors"),
        (lambda p: _files(p, "petune.json"), "lacks adapter_model.safetensors"),
        (lambda p: _files(p, "adapter_config.json", "adapter_model.bin"), "pickle"),
        (lambda p: _files(p, "checkpoint-00000004"), "checkpoint"),
    ],
)
def test_a_folder_that_is_something_else(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    """The message says what it is, and what to do with it."""
    write(tmp_path / "adapter_one", making.small())
    make(tmp_path / "adapter_two")
    with pytest.raises(AdapterFileError, match=words):
        read(tmp_path / "adapter_two")


def _files(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")


def test_the_adapter_file_itself_is_not_the_folder(folder: Path) -> None:
    """Its folder is named."""
    with pytest.raises(AdapterFileError, match=f"Pass {folder}"):
        read(folder / ADAPTER)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"a": {"keys": torch.ones(2, 1, 4), "values": torch.ones(2, 1, 3)}}, "keys are"),
        ({"a": {"keys": torch.ones(3, 1, 4), "values": torch.ones(3, 1, 4)}}, "length"),
        ({"a": {"keys": torch.ones(2, 1, 4)}}, "holds keys"),
    ],
)
def test_a_prefix_makes_sense(tmp_path: Path, layers: Any, words: str) -> None:
    """Keys and values of one shape and of the manifest's length."""
    manifest = {**making.small().manifest, "method": {"name": "prefix", "knobs": {"length": 2}}}
    with pytest.raises(AdapterFileError, match=words):
        write(tmp_path, Stored(manifest, layers, {}))
