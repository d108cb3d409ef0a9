"""Adapters that an older petune wrote: `schema_1` was written by the last petune that wrote schema 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from petune import AdaptedModel
from petune.storage import adapter_file, manifest, migrations
from tests import tiny

OLD = Path(__file__).parent / "schema_1"
INPUTS = {"input_ids": torch.tensor([[2, 17, 23, 5, 3]])}


def _answers(folder: Path) -> torch.Tensor:
    model = AdaptedModel(tiny.backbone("bert")).add("it", folder)
    with torch.no_grad():
        logits: torch.Tensor = model(**INPUTS, route="it").logits
    return logits


def test_the_folder_is_really_an_old_one() -> None:
    """Its manifest says schema 1 and lacks what schema 2 always has."""
    said = json.loads((OLD / "petune.json").read_text("utf-8"))
    assert said["schema"] == 1 and "outputs" not in said["backbone"] and "quantized" not in said["backbone"]


def test_an_old_folder_loads_bit_for_bit(tmp_path: Path) -> None:
    """Its tensors are the file's own, and saved anew, in today's schema, it gives the same answers."""
    stored = adapter_file.read(OLD)
    file = load_file(OLD / adapter_file.ADAPTER)
    for path, pair in stored.layers.items():
        for short, tensor in pair.items():
            assert torch.equal(tensor, file[f"base_model.model.bert.{path}.{short}.weight"])
    assert stored.manifest["schema"] == migrations.SCHEMA == 2 and stored.notices == ()
    again = adapter_file.write(tmp_path / "again", stored)
    assert json.loads((again / "petune.json").read_text("utf-8"))["schema"] == 2
    assert torch.equal(_answers(OLD), _answers(again))


def test_an_old_manifest_is_checked_as_it_was_written(tmp_path: Path) -> None:
    """Migration comes after the digests: another word in an old folder is found like in a new one."""
    folder = Path(shutil.copytree(OLD, tmp_path / "old"))
    path = folder / adapter_file.ADAPTER
    path.write_bytes(path.read_bytes().replace(b'\\"seed\\": 0', b'\\"seed\\": 7'))
    with pytest.raises(adapter_file.AdapterFileError, match="sha256 differs"):
        adapter_file.read(folder)


def test_each_step_leads_to_a_manifest_of_today() -> None:
    """From every older schema, and what is of today is left alone."""
    said = json.loads((OLD / "petune.json").read_text("utf-8"))
    old = {key: value for key, value in said.items() if key not in ("adapter_sha256", "exports")}
    made = migrations.migrated(old)
    manifest.validate(made, source="it")
    assert migrations.migrated(made) == made and old["schema"] == 1
    assert set(migrations._STEPS) == set(range(1, migrations.SCHEMA))
