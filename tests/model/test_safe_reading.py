"""Backbones come from safetensors: a pickle is never opened, and code that lies beside the weights never runs."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from petune import Tuner
from petune.errors import BackboneError
from petune.model.backbone import Backbone
from petune.storage import full_facts
from tests import tiny

PETUNE = Path(full_facts.__file__).parent.parent


class Payload:
    """A pickle of this writes a file when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_weights_in_a_pickle_are_refused(tmp_path: Path, name: str) -> None:
    """The error names the file and tells how to turn it into safetensors; a payload never runs."""
    folder, marker = tiny.folder("bert", tmp_path), tmp_path / "it-ran"
    (folder / "model.safetensors").unlink()
    torch.save({"a": Payload(marker)}, folder / name)
    with pytest.raises(BackboneError, match=f"pickle, {name}.*save it again"):
        Tuner(folder)
    assert not marker.exists()


def test_a_harmless_pickle_is_refused_too(tmp_path: Path) -> None:
    """Also one that holds plain weights."""
    folder = tiny.folder("bert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="pickle"):
        Backbone.open(folder)


def test_safetensors_win_over_a_pickle_beside_them(tmp_path: Path) -> None:
    """A payload beside the real weights is not opened."""
    folder, marker = tiny.folder("bert", tmp_path), tmp_path / "it-ran"
    torch.save({"a": Payload(marker)}, folder / "pytorch_model.bin")
    assert Backbone.open(folder).model_type == "bert" and not marker.exists()


def test_code_beside_the_weights_never_runs(tmp_path: Path) -> None:
    """A configuration that names its own classes is refused without a question on the terminal."""
    folder, marker = tiny.folder("bert", tmp_path), tmp_path / "it-ran"
    (folder / "modeling_x.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "never-heard-of", "auto_map": dict.fromkeys(("AutoConfig", "AutoModel"), "modeling_x.X")}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="custom code"):
        Backbone.open(folder)
    assert not marker.exists()


def test_no_line_of_petune_opens_a_pickle() -> None:
    """No `torch.load`, `torch.save`, `pickle` or their kin anywhere in the package."""
    unsafe = re.compile(
        r"(?<!safetensors\.)torch\.(load|save)\(|\bc?pickle\.[a-zA-Z]|import \w*pickle|joblib\.|np\.load\("
    )
    for path in PETUNE.rglob("*.py"):
        assert not unsafe.search(path.read_text("utf-8")), path


def test_every_reading_by_transformers_is_a_safe_one() -> None:
    """Each call of `from_pretrained` says that no code is run, or that the weights are safetensors."""
    calls = [
        (path, node)
        for path in PETUNE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained"
    ]
    assert len(calls) >= 7
    for path, call in calls:
        said = {keyword.arg or ast.unparse(keyword.value): ast.unparse(keyword.value) for keyword in call.keywords}
        safe = said.get("trust_remote_code") == "False" or said.get("use_safetensors") == "True" or "SAFELY" in said
        assert safe, f"{path}:{call.lineno}"


def test_an_adapter_is_no_backbone(tmp_path: Path) -> None:
    """The error names the adapter's own backbone; nothing of the adapter is opened for it."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/encoder"}')
    with pytest.raises(BackboneError, match=r"is an adapter.*'some/encoder'.*continue_from"):
        Tuner(str(tmp_path))


@pytest.mark.parametrize("config", ['{"peft_type": "LORA"}', "[" * 100_000, '{"base_model_name_or_path": 5}'])
def test_an_adapter_beside_the_weights_is_never_put_in(tmp_path: Path, config: str) -> None:
    """transformers would load it into the frozen weights without a word; whatever its configuration says."""
    folder = tiny.folder("bert", tmp_path)
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(BackboneError, match="holds an adapter beside the model's weights"):
        Tuner(str(folder))
