"""One backbone has one fingerprint, in memory and in whichever checkpoint it rests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertForMaskedLM, PreTrainedModel

from petune.storage import fingerprint
from petune.storage.fingerprint import backbone_fingerprint, checkpoint_fingerprint
from tests import tiny


def _body(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors that both a BERT with and without a pooler hold."""
    return {name: t for name, t in model.base_model.named_parameters() if "pooler" not in name}


@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_files_and_memory_agree(tmp_path: Path, shards: str) -> None:
    """A masked language model's checkpoint and a plain one of the same weights, whole or in shards."""
    model = BertForMaskedLM(tiny.config("bert")).eval()
    model.save_pretrained(tmp_path / "mlm", max_shard_size=shards)
    plain = AutoModel.from_pretrained(tmp_path / "mlm")
    plain.save_pretrained(tmp_path / "plain", max_shard_size=shards)
    names = list(_body(model))
    wanted = backbone_fingerprint(_body(plain).items())
    assert backbone_fingerprint(_body(model).items()) == wanted
    for folder in ("mlm", "plain"):
        assert checkpoint_fingerprint(tmp_path / folder, names, "bert") == (wanted, "float32")


def test_one_bit_a_name_a_shape_and_a_dtype_count() -> None:
    """Each of the four that go into it changes it; order does not."""
    a, b = torch.arange(6.0), torch.ones(2)
    base = backbone_fingerprint([("a", a), ("b", b)])
    flipped = a.clone()
    flipped.view(torch.int32)[3] ^= 1
    assert backbone_fingerprint([("b", b), ("a", a)]) == base
    for other in (flipped, a.view(2, 3), a.half()):
        assert backbone_fingerprint([("a", other), ("b", b)]) != base
    assert backbone_fingerprint([("c", a), ("b", b)]) != base


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """What was read is remembered by path, size and time; a file with one other bit gives another fingerprint."""
    folder = tiny.folder("bert", tmp_path)
    path = folder / "model.safetensors"
    held = load_file(path)
    before = checkpoint_fingerprint(folder, list(held), "bert")
    assert checkpoint_fingerprint(folder, list(held), "bert") == before
    next(iter(held.values())).view(torch.int32).view(-1)[0] ^= 1
    save_file(held, path, {"format": "pt"})
    os.utime(path, ns=(1, 1))
    assert checkpoint_fingerprint(folder, list(held), "bert") != before


def test_old_names_and_dtypes(tmp_path: Path) -> None:
    """gamma and beta of TensorFlow's days are weight and bias; the dtype is that of the file."""
    weights = {"bert.LayerNorm.gamma": torch.ones(4).half(), "bert.LayerNorm.beta": torch.zeros(4).half()}
    save_file(weights, tmp_path / "model.safetensors")
    modern = {"LayerNorm.weight": torch.ones(4).half(), "LayerNorm.bias": torch.zeros(4).half()}
    assert checkpoint_fingerprint(tmp_path, list(modern), "bert") == (backbone_fingerprint(modern.items()), "float16")


@pytest.mark.parametrize("spoil", ["missing", "nothing", "damaged", "pointer", "outside"])
def test_no_answer_rather_than_a_wrong_one(tmp_path: Path, spoil: str) -> None:
    """A missing name, no safetensors, a damaged file, an index that points out of the folder: None."""
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2)}, path)
    names = ["a"]
    if spoil == "missing":
        names = ["a", "b"]
    elif spoil == "nothing":
        path.unlink()
    elif spoil == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    elif spoil == "pointer":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    else:
        path.rename(tmp_path.parent / "x.safetensors")
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    assert checkpoint_fingerprint(tmp_path, names, "") is None


def test_it_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second question about the same files reads no tensor."""
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    first = checkpoint_fingerprint(tmp_path, ["a"], "")
    monkeypatch.setattr(fingerprint, "_sha256", lambda *_: pytest.fail("read again"))
    assert checkpoint_fingerprint(tmp_path, ["a"], "") == first
