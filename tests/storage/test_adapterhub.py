"""AdapterHub's layout, there and back, and against arithmetic written from that library's source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from petune import Bottleneck, LoRA, Prefix, TokenClassification, Tuner, convert, diagnose, export
from petune.errors import AdapterFileError, ConfigError
from petune.storage import container
from tests import tiny
from tests.storage.test_exporting import CONFIG, batch, trained

FEW = ("query", "value")
METHODS = {
    "houlsby": Bottleneck(width=5, scale=0.5, activation="silu"),
    "pfeiffer": Bottleneck(style="pfeiffer", width=7, activation="relu"),
    "parallel-one-block": Bottleneck(style="parallel", width=8, scale=4.0, top=1),
    "lora": LoRA(rank=4, alpha=16, targets=FEW),
    "rslora-ranks": LoRA(
        rank=4, rslora=True, targets=(*FEW, "ffn_output"), top=1, ranks={"encoder.layer.1.output.dense": 2}
    ),
}
ACTS = {"swish": nn.functional.silu, "relu": torch.relu, "gelu": nn.functional.gelu, "tanh": torch.tanh}


def out_of(tuner: Tuner) -> list[Any]:
    """Its probabilities on a few rows."""
    return tuner.predict_proba([row["text"] for row in tiny.rows(3, seed=5)]).tolist()


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("kind", METHODS)
def test_there_and_back(kind: str, family: str, tmp_path: Path) -> None:
    """Written for AdapterHub and taken over again, an adapter answers as before, with its labels."""
    tuner, home = trained(tmp_path, METHODS[kind], family)
    made = export(tuner.save(tmp_path / "own"), tmp_path / "hub", target="adapters")
    back = convert(made.folder, tmp_path / "back", backbone=home)
    assert back.classes_ == ("bad", "good") and back.name == "mood"
    assert torch.tensor(out_of(back)).sub(torch.tensor(out_of(tuner))).abs().max() < 1e-5
    assert torch.tensor(out_of(Tuner.load(tmp_path / "back"))).equal(torch.tensor(out_of(back)))


def theirs(home: Path, folder: Path) -> Tensor:
    """The logits as that library computes them: its configuration and its tensors, hooked into transformers' class."""
    said = json.loads((folder / "adapter_config.json").read_text())
    config, name = said["config"], said["name"]
    tensors, _ = container.unpack((folder / "adapter.safetensors").read_bytes(), "adapter")
    head, _ = container.unpack((folder / "model_head.safetensors").read_bytes(), "head")
    model = AutoModelForSequenceClassification.from_pretrained(home, num_labels=2).eval()
    assert said["model_class"] == type(model).__name__
    model.load_state_dict(head, strict=False)
    for place in {key.split(f".adapters.{name}.")[0] for key in tensors if ".adapters." in key}:
        own = {
            key.split(f".adapters.{name}.")[1]: one
            for key, one in tensors.items()
            if key.startswith(f"{place}.adapters")
        }
        assert int(said["hidden_size"] // config["reduction_factor"]) == len(own["adapter_down.0.bias"])
        _bottleneck(model, place, own, config)
    for place in {key.split(f".loras.{name}.")[0] for key in tensors if ".loras." in key}:
        a, b = (tensors[f"{place}.loras.{name}.lora_{part}"] for part in "AB")
        weight = model.get_submodule(place).weight
        weight.data += b @ a * (config["alpha"] / config["r"])
    with torch.no_grad():
        return model(**batch()).logits


def _bottleneck(model: nn.Module, place: str, own: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Hooks one adapter where that library calls it: on a sub-block's output, before the residual sum and its norm."""

    def change(source: Tensor) -> Tensor:
        down = ACTS[config["non_linearity"]](
            nn.functional.linear(source, own["adapter_down.0.weight"], own["adapter_down.0.bias"])
        )
        return nn.functional.linear(down, own["adapter_up.weight"], own["adapter_up.bias"]) * config["scaling"]

    dense = model.get_submodule(f"{place}.dense")
    if not config["is_parallel"]:
        dense.register_forward_hook(lambda module, inputs, output: output + change(output))
        return
    entered: list[Tensor] = []
    block = model.get_submodule(place.removesuffix(".output"))
    block.intermediate.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    dense.register_forward_hook(lambda module, inputs, output: output + change(entered.pop()))


@pytest.mark.parametrize("kind", METHODS)
def test_its_own_arithmetic_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    """The exported files, computed as that library's source says, give petune's probabilities."""
    tuner, home = trained(tmp_path, METHODS[kind])
    folder = export(tuner.save(tmp_path / "own"), tmp_path / "hub", target="adapters").folder
    assert torch.allclose(theirs(home, folder).softmax(-1), torch.tensor(out_of(tuner)), atol=1e-5)


def test_tags_go_there_and_back(tmp_path: Path) -> None:
    """The head of a token classifier is written under its own class."""
    home = tiny.folder("bert", tmp_path)
    tuner = Tuner(home, task=TokenClassification(), method=Bottleneck(width=4)).fit(tiny.tag_rows(12), config=CONFIG)
    folder = export(tuner.save(tmp_path / "own"), tmp_path / "hub", target="adapters").folder
    said = json.loads((folder / "head_config.json").read_text())
    assert said["model_class"] == AutoModelForTokenClassification.from_pretrained(home).__class__.__name__
    words = [row["tokens"] for row in tiny.tag_rows(3, seed=4)]
    assert convert(folder, tmp_path / "back", backbone=home).classes_ == tuner.classes_
    assert len(Tuner.load(tmp_path / "back").predict(words)) == 3


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A Houlsby adapter as that library would have it."""
    tuner, _ = trained(tmp_path, Bottleneck(width=4))
    return export(tuner.save(tmp_path / "own"), tmp_path / "hub", target="adapters").folder


def test_a_flexible_head_becomes_the_head_of_the_class(hub: Path, tmp_path: Path) -> None:
    """One layer on BERT's pooler is transformers' classifier; labels come from its map."""
    head, _ = container.unpack((hub / "model_head.safetensors").read_bytes(), "head")
    named = {f"heads.mood.1.{name.rpartition('.')[2]}": tensor for name, tensor in head.items()}
    (hub / "model_head.safetensors").write_bytes(container.pack(named, {}))
    inner = {"head_type": "classification", "num_labels": 2, "layers": 1, "activation_function": "tanh",
             "use_pooler": True, "label2id": {"no": 0, "yes": 1}}  # fmt: skip
    (hub / "head_config.json").write_text(
        json.dumps({"config": inner, "name": "mood", "model_class": "BertAdapterModel"})
    )
    made = convert(hub, tmp_path / "back")
    assert made.classes_ == ("no", "yes")
    assert torch.allclose(torch.tensor(out_of(made)), torch.tensor(out_of(Tuner.load(tmp_path / "own"))), atol=1e-5)


def edited(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes one of its JSON files."""
    said = json.loads((folder / file).read_text())
    change(said)
    (folder / file).write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("original_ln_before", True),
        ("ln_after", True),
        ("use_gating", True),
        ("phm_layer", True),
        ("inv_adapter", "nice"),
        ("scaling", "learned"),
        ("non_linearity", "leakyrelu"),
        ("architecture", "prefix_tuning"),
        ("output_adapter", False),
    ],
)
def test_another_network_is_refused(hub: Path, field: str, value: object, tmp_path: Path) -> None:
    """A field by which that library computes something else is named; the doctor says so too."""
    edited(hub, "adapter_config.json", lambda said: said["config"].update({field: value}))
    with pytest.raises(AdapterFileError) as caught:
        convert(hub, tmp_path / "back")
    assert field in caught.value.what or str(value) in caught.value.what or "puts its adapters" in caught.value.what
    found = diagnose(hub)
    assert [(one.severity, one.kind) for one in found.findings] == [("error", "other-format")]
    assert not (tmp_path / "back").exists()


def test_pfeiffers_own_configuration_is_refused_with_the_reason(hub: Path) -> None:
    """AdapterHub's seq_bn reads behind a norm, petune's bottleneck before it; the message says so."""
    edited(hub, "adapter_config.json", lambda said: said["config"].update(original_ln_before=True, mh_adapter=False))
    with pytest.raises(AdapterFileError, match=r"seq_bn.*own output"):
        Tuner.load(hub)


def test_the_doctor_tells_a_good_one(hub: Path) -> None:
    """It is fine, with a note on who reads it."""
    found = diagnose(hub)
    assert found.ok and found.kind == "AdapterHub adapter"
    assert [(one.severity, one.kind) for one in found.findings] == [("note", "other-format")]


def test_a_lora_from_before_its_scale_counted(tmp_path: Path) -> None:
    """Before adapters 1.1 alpha had no effect: the adapter is read as it was trained, and that is said."""
    tuner, home = trained(tmp_path, LoRA(rank=4, targets=FEW))
    hub = export(tuner.save(tmp_path / "own"), tmp_path / "hub", target="adapters").folder
    edited(hub, "adapter_config.json", lambda said: said.update(version="adapters.1.0.1"))
    edited(hub, "adapter_config.json", lambda said: said["config"].update(alpha=16))
    made = Tuner.load(hub, home)
    assert "had no effect" in " ".join(made.notices)
    assert torch.allclose(torch.tensor(out_of(made)), torch.tensor(out_of(tuner)), atol=1e-5)


def test_what_cannot_be_read_is_refused(hub: Path, tmp_path: Path) -> None:
    """A pickle, a folder without a head, a tensor of nothing, and a wrong number of labels."""
    with pytest.raises(ConfigError, match="3 labels were given"):
        convert(hub, tmp_path / "back", labels=["a", "b", "c"])
    head = (hub / "head_config.json").read_text()
    (hub / "head_config.json").unlink()
    with pytest.raises(AdapterFileError, match="holds no head"):
        Tuner.load(hub)
    (hub / "head_config.json").write_text(head)
    tensors, _ = container.unpack((hub / "adapter.safetensors").read_bytes(), "adapter")
    tensors["bert.encoder.layer.0.output.adapters.mood.gate.weight"] = torch.ones(1, 4)
    (hub / "adapter.safetensors").write_bytes(container.pack(tensors, {}))
    with pytest.raises(AdapterFileError, match="gate"):
        Tuner.load(hub)
    (hub / "adapter.safetensors").rename(hub / "pytorch_adapter.bin")
    with pytest.raises(AdapterFileError, match="pickle"):
        Tuner.load(hub)


@pytest.mark.parametrize(
    ("method", "family", "said"),
    [
        (LoRA(rank=2, targets=("attention_output",)), "bert", "no LoRA at"),
        (LoRA(rank=2, targets=FEW, ranks={"encoder.layer.0.attention.self.query": 0}), "bert", "differ in their sites"),
        (Prefix(length=2), "bert", "not written for AdapterHub"),
        (LoRA(rank=2, targets=FEW), "distilbert", "not written for 'distilbert'"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(method: object, family: str, said: str, tmp_path: Path) -> None:
    """Sites, methods and architectures that the two libraries do not share."""
    tuner, _ = trained(tmp_path, method, family)
    with pytest.raises(AdapterFileError, match=said):
        export(tuner.save(tmp_path / "own"), tmp_path / "hub", target="adapters")
