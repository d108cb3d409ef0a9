"""Adapters for other programs: whatever field a reader ignores, the logits are petune's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from petune import AdaLoRA, Bottleneck, CausalLM, Full, LoRA, Prefix, TrainConfig, Tuner, export
from petune.errors import AdapterFileError, ConfigError
from petune.lookup import find
from petune.storage import adapter_file, container, manifest
from petune.storage.plain_lora import plain_lora
from petune.storage.stored import Stored
from tests import tiny
from tests.language import language_model
from tests.storage.making import PEFT_WARNS

CONFIG = TrainConfig(epochs=1, batch_size=8, progress="off")
FEW = ("query", "value")
METHODS = {
    "plain": LoRA(rank=4, targets=FEW),
    "rslora": LoRA(rank=4, alpha=16, rslora=True, targets=FEW),
    "ranks": LoRA(rank=4, alpha=6, targets=FEW, ranks={"encoder.layer.0.attention.self.query": 2}),
    "none-at-one": LoRA(rank=3, targets=FEW, ranks={"encoder.layer.1.attention.self.value": 0}),
    "adalora": AdaLoRA(rank=2, init_rank=4, targets=FEW),
}


def trained(place: Path, method: object, family: str = "bert") -> tuple[Tuner, Path]:
    """A tuner whose adapter matters, and the folder of its backbone."""
    home = tiny.folder(family, place)
    tuner = Tuner(home, method=method, name="mood").fit(tiny.rows(16), config=CONFIG)
    with torch.no_grad():
        for layer in tuner.adapter.body.layers.values():
            for name, parameter in layer.named_parameters():
                if "lora_B" in name or "up." in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
    return tuner, home


def batch() -> dict[str, torch.Tensor]:
    """Three padded rows."""
    texts = [row["text"] for row in tiny.rows(3, seed=5)]
    return dict(tiny.tokenizer("bert")(texts, padding=True, return_tensors="pt"))


def ours(tuner: Tuner, folder: Path) -> torch.Tensor:
    """petune's logits of the saved adapter."""
    model = Tuner.load(folder).merged_copy() if tuner.method.mergeable else None
    assert isinstance(model, PreTrainedModel)
    with torch.no_grad():
        return model.eval()(**batch()).logits


def by_peft(home: Path, folder: Path) -> torch.Tensor:
    """peft's logits of an exported folder."""
    from peft import PeftModel

    shell = AutoModelForSequenceClassification.from_pretrained(home, num_labels=2)
    with torch.no_grad():
        return PeftModel.from_pretrained(shell, folder).eval()(**batch()).logits


@pytest.mark.filterwarnings(PEFT_WARNS)
@pytest.mark.parametrize("kind", METHODS)
def test_peft_gives_the_same_logits_also_when_fields_are_ignored(kind: str, tmp_path: Path) -> None:
    """The exported folder through peft, whole and with everything but rank and alpha stripped, is petune's adapter."""
    tuner, home = trained(tmp_path, METHODS[kind])
    expected = ours(tuner, tuner.save(tmp_path / "own"))
    out = export(tmp_path / "own", tmp_path / "plain").folder
    assert torch.allclose(by_peft(home, out), expected, atol=1e-5)
    said = json.loads((out / "adapter_config.json").read_text())
    assert said["r"] == said["lora_alpha"] and not {"use_rslora", "alpha_pattern", "rank_pattern"} & said.keys()
    kept = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "modules_to_save")
    (out / "adapter_config.json").write_text(json.dumps({name: said[name] for name in kept}))
    assert torch.allclose(by_peft(home, out), expected, atol=1e-5)


@pytest.mark.filterwarnings(PEFT_WARNS)
def test_the_saved_folder_itself_goes_wrong_where_a_field_is_ignored(tmp_path: Path) -> None:
    """The control: stripping the same fields from what `save` wrote for an rsLoRA changes peft's logits."""
    tuner, home = trained(tmp_path, METHODS["rslora"])
    folder = tuner.save(tmp_path / "own")
    expected = ours(tuner, folder)
    said = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({k: v for k, v in said.items() if k != "use_rslora"}))
    assert not torch.allclose(by_peft(home, folder), expected, atol=1e-2)


@pytest.mark.parametrize("target", ["vllm", "gguf"])
def test_a_language_models_lora_is_two_tensors_a_site(target: str, tmp_path: Path) -> None:
    """A reader of names, `lora_alpha` and the rank of a tensor computes each site's change; nothing else is there."""
    home = tmp_path / "llama"
    for part in (language_model("llama"), tiny.tokenizer("llama")):
        part.save_pretrained(home)
    rows = [{"text": row["text"]} for row in tiny.rows(8)]
    method = LoRA(rank=20, alpha=10, rslora=True, targets=FEW, ranks={"layers.0.self_attn.q_proj": 3})
    tuner = Tuner(home, task=CausalLM(), method=method).fit(rows, config=CONFIG)
    with torch.no_grad():
        for layer in tuner.adapter.body.layers.values():
            layer.lora_B.normal_()
    made = export(tuner.save(tmp_path / "own"), tmp_path / "out", target=target)
    tensors, _ = container.unpack((made.folder / adapter_file.ADAPTER).read_bytes(), "out")
    said = json.loads((made.folder / adapter_file.PEFT_CONFIG).read_text())
    assert {name.rsplit(".", 2)[-2] for name in tensors} == {"lora_A", "lora_B"}
    assert said["modules_to_save"] is None and said["bias"] == "none" and said["base_model_name_or_path"] == str(home)
    for path, layer in tuner.adapter.body.layers.items():
        name = f"base_model.model.model.{path}.lora_"
        a, b = tensors[f"{name}A.weight"], tensors[f"{name}B.weight"]
        assert torch.allclose(b @ a * (said["lora_alpha"] / len(a)), layer.delta(), atol=1e-5)
    assert ("--max-lora-rank 32" if target == "vllm" else "--base") in made.notices[0]
    assert (made.folder / "tokenizer.json").exists() == (target == "vllm")


@pytest.mark.parametrize(
    ("method", "target", "said"),
    [
        (LoRA(rank=2, top=1), "vllm", "has a head"),
        (LoRA(rank=2, top=1), "gguf", "has a head"),
        (Bottleneck(width=4, top=1), "peft", "peft has no method"),
        (Prefix(length=2), "peft", "Prefix tuning cannot be written"),
        (Bottleneck(width=4, top=1), "vllm", "has a head"),
    ],
)
def test_what_a_reader_would_get_wrong_is_refused(method: object, target: str, said: str, tmp_path: Path) -> None:
    """The refusal gives the reason, and nothing is written."""
    tuner, _ = trained(tmp_path, method)
    with pytest.raises(AdapterFileError, match=said):
        export(tuner.save(tmp_path / "own"), tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


def test_a_head_can_be_left_out_and_a_bottleneck_is_no_lora(tmp_path: Path) -> None:
    """`drop_head` writes the body alone; a method that is no LoRA is refused all the same."""
    tuner, _ = trained(tmp_path, LoRA(rank=2, top=1))
    made = export(tuner.save(tmp_path / "own"), tmp_path / "out", target="gguf", drop_head=True)
    tensors, _ = container.unpack((made.folder / adapter_file.ADAPTER).read_bytes(), "out")
    assert tensors and all(".lora_" in name for name in tensors)
    other, _ = trained(tmp_path, Bottleneck(width=4, top=1))
    with pytest.raises(AdapterFileError, match="is no LoRA"):
        export(other.save(tmp_path / "other"), tmp_path / "out2", target="vllm", drop_head=True)


def test_transposed_maps_and_whole_models_are_refused(tmp_path: Path) -> None:
    """llama.cpp's converter would turn GPT-2's factors; a full fine-tuning is no adapter."""
    tuner, _ = trained(tmp_path, LoRA(rank=2, top=1), "gpt2")
    with pytest.raises(AdapterFileError, match="transposed"):
        export(tuner.save(tmp_path / "own"), tmp_path / "out", target="gguf", drop_head=True)
    whole = Tuner(tiny.folder("bert", tmp_path), method=Full()).fit(tiny.rows(8), config=CONFIG).save(tmp_path / "full")
    with pytest.raises(AdapterFileError, match="whole model"):
        export(whole, tmp_path / "out")


def test_a_wrong_target_and_a_full_folder_are_refused(tmp_path: Path) -> None:
    """The near target is named; what lies in a folder is never written over."""
    tuner, _ = trained(tmp_path, LoRA(rank=2, top=1))
    folder = tuner.save(tmp_path / "own")
    with pytest.raises(ConfigError, match="Did you mean 'gguf'"):
        export(folder, tmp_path / "out", target="ggfu")
    with pytest.raises(ConfigError, match="is there already"):
        export(folder, folder)


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    alpha=st.one_of(st.none(), st.floats(0.5, 64)),
    rslora=st.booleans(),
)
def test_folding_keeps_every_change(ranks: list[int], alpha: float | None, rslora: bool) -> None:
    """Whatever ranks, alpha and kind of scale: one rank, a scale of 1, and the same product at each site."""
    knobs = {"rank": 3, "alpha": alpha, "rslora": rslora, "ranks": {f"s{i}": rank for i, rank in enumerate(ranks)}}
    layers = {f"s{i}": {"lora_A": torch.randn(r, 6), "lora_B": torch.randn(4, r)} for i, r in enumerate(ranks)}
    made = manifest.build(
        name="a", task={"name": "t", "knobs": {}}, labels=[], method={"name": "lora", "knobs": knobs}, backbone={}
    )
    plain, method = plain_lora(Stored(made, layers)), find("methods", "lora")(**knobs)
    assert plain.rank == max(ranks) and set(plain.layers) == {f"s{i}" for i, rank in enumerate(ranks) if rank}
    for path, own in plain.layers.items():
        assert own["lora_A"].shape[0] == own["lora_B"].shape[1] == plain.rank
        rank = layers[path]["lora_A"].shape[0]
        expected = layers[path]["lora_B"] @ layers[path]["lora_A"] * method.scale(rank)
        assert torch.allclose(own["lora_B"] @ own["lora_A"], expected, rtol=1e-4, atol=1e-4)
