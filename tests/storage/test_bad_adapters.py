"""Bad adapters beside the catalogue that tests/faults runs: other methods, near names, writing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from petune.errors import AdapterFileError
from petune.storage import container, soundness, strict_json
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


def test_an_error_names_the_near_tensor(folder: Path) -> None:
    """A renamed tensor is answered with the name that was meant."""
    _resealed(folder, lambda m, t: t.update({f"{A}s": t.pop(A)}))
    _refused(folder, "Did you mean.*lora_A.weights")


def test_a_changed_manifest_is_found_without_any_export(folder: Path) -> None:
    """The adapter file alone tells that a label in it is not the one that was written."""
    path = folder / ADAPTER
    (folder / "petune.json").unlink()
    path.write_bytes(path.read_bytes().replace(b'\\"good\\"', b'\\"gold\\"'))
    _refused(folder, "sha256 differs")


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"down.weight": torch.ones(3, 4)}, "down.weight is"),
        ({"up.weight": torch.ones(4)}, "up.weight"),
        ({"more": torch.ones(1)}, "holds down.bias"),
    ],
)
def test_a_bottleneck_makes_sense(tmp_path: Path, change: dict[str, Tensor], words: str) -> None:
    """Both maps have the width of the manifest inside, and nothing else is there."""
    manifest = {**making.small().manifest, "method": {"name": "bottleneck", "knobs": {"width": 2}}}
    with pytest.raises(AdapterFileError, match=words):
        write(tmp_path, Stored(manifest, {"a": {**making.bottleneck(2), **change}}, {}))


@pytest.mark.parametrize("method", ["bottleneck", "prefix"])
def test_a_method_without_tensors_is_none(tmp_path: Path, method: str) -> None:
    """Its sizes would be the file's word alone, and memory would be asked for by it."""
    manifest = {**making.small().manifest, "method": {"name": method, "knobs": {"width": 10**9, "length": 10**9}}}
    with pytest.raises(AdapterFileError, match="holds no tensors"):
        write(tmp_path, Stored(manifest, {}, {}))


@pytest.mark.parametrize("config", [{"r": 10**6}, {"rank_pattern": {"q": 10**6}}, {"n_frequency": 10**9}, None])
def test_a_size_of_the_long_tail_is_bounded_by_its_tensors(tmp_path: Path, config: Any) -> None:
    """peft would ask for that memory before it looks at the tensors."""
    manifest = {**making.small().manifest, "method": {"name": "peft", "knobs": {"config": config}}}
    with pytest.raises(AdapterFileError, match=r"At most 4096|peft's configuration"):
        write(tmp_path, Stored(manifest, {"": {"model.q.x": torch.ones(2)}}, {}))


def test_an_untrained_adapter_by_peft_is_noticed(tmp_path: Path) -> None:
    """All its B are zero, so it changes nothing in the backbone, and that is said."""
    folder = write(tmp_path / "it", making.small())
    tensors, _ = container.unpack((folder / ADAPTER).read_bytes(), "it")
    tensors = {name: tensor.zero_() if "lora_B" in name else tensor for name, tensor in tensors.items()}
    (folder / ADAPTER).write_bytes(container.pack(tensors, {"format": "pt"}))
    (folder / "petune.json").unlink()
    assert any("untrained" in notice for notice in read(folder).notices)


def test_a_folder_that_peft_saved_over_is_one_by_peft(tmp_path: Path) -> None:
    """Its config is not the one that petune wrote; petune.json of before is of no account."""
    folder = write(tmp_path / "it", making.small())
    tensors, _ = container.unpack((folder / ADAPTER).read_bytes(), "it")
    (folder / ADAPTER).write_bytes(container.pack(tensors, {"format": "pt"}))
    with pytest.raises(AdapterFileError, match="has no manifest in its metadata"):
        read(folder)
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_version": "0.21.2"}), "utf-8")
    assert read(folder).manifest["trained_as"] == "lora"


@pytest.mark.parametrize(
    ("method", "knob", "shapes"),
    [
        ("lora", "rank", {"lora_A": (5000, 4), "lora_B": (4, 5000)}),
        ("prefix", "length", {"keys": (20_000, 1, 1), "values": (20_000, 1, 1)}),
        ("bottleneck", "width", {"down.weight": (5000, 1), "up.weight": (1, 5000), "down.bias": (9,), "up.bias": (1,)}),
        ("lora", "rank", {"lora_A": (2**31, 0), "lora_B": (0, 2**31)}),
        ("prefix", "length", {"keys": (2**31, 0, 16), "values": (2**31, 0, 16)}),
        ("bottleneck", "width", {"down.weight": (5, 0), "down.bias": (5,), "up.weight": (0, 5), "up.bias": (0,)}),
    ],
)  # fmt: skip
def test_narrow_tensors_ask_for_no_wide_layers(method: str, knob: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Layers are built at the backbone's widths, so a size without bytes behind it would cost gigabytes there."""
    layers = {"layer.0.q": {short: torch.zeros(shape) for short, shape in shapes.items()}}
    made = making.small()
    recipe = {"name": method, "knobs": {knob: max(*shapes.values())[0]}}
    stored = Stored({**made.manifest, "method": recipe}, layers, made.head)
    with pytest.raises(AdapterFileError, match=r"has no elements|At most"):
        soundness.check(stored, "it")


def test_no_empty_tensor_takes_the_place_of_one_in_the_file(folder: Path) -> None:
    """What the file holds is what counts."""
    empty = {A: {"dtype": "float32", "shape": [0, 4]}}
    _resealed(folder, lambda m, t: m["layout"]["empty"].update(empty))
    _refused(folder, "is no empty tensor")
