"""Written for peft: `PeftModel` and transformers load the folder, and give the logits computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from petune.methods.peft import Peft
from petune.storage import adapter_file
from petune.storage.peft_format import adapter_config, head_modules, largest_modules, why_no_peft_config
from petune.storage.stored import Stored
from tests import tiny
from tests.storage import making

pytestmark = pytest.mark.filterwarnings(making.PEFT_WARNS)
CASES = [
    ("bert", "sequence-classification", {}),
    ("bert", "token-classification", {"rslora": True}),
    ("roberta", "sequence-classification", {"alpha": None}),
    ("gpt2", "sequence-classification", {"alpha": 3.0}),
    ("deberta-v2", "sequence-classification", {}),
]


def _by_peft(folder: Path, base: Path, task: str) -> peft.PeftModel:
    """The model as peft loads it; its head is another one before."""
    torch.manual_seed(11)
    return peft.PeftModel.from_pretrained(making.AUTO[task].from_pretrained(base, num_labels=3), str(folder)).eval()


def _both(folder: Path, base: Path, task: str) -> list[PreTrainedModel]:
    """The model as peft loads it, and as transformers alone does."""
    by_peft = _by_peft(folder, base, task)
    torch.manual_seed(12)
    return [by_peft, making.AUTO[task].from_pretrained(folder, num_labels=3).eval()]


@pytest.mark.parametrize(("family", "task", "knobs"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_and_transformers_give_the_same_logits(
    tmp_path: Path, family: str, task: str, knobs: dict[str, Any]
) -> None:
    """A LoRA with its head, DeBERTa's pooler and GPT-2's transposed maps included, needs no petune to be used."""
    base = tiny.folder(family, tmp_path)
    model, head = making.shell(base, task)
    adapter = making.lora(model, head, base, family, **knobs)
    folder = adapter_file.write(tmp_path / "adapter", adapter)
    wanted = making.logits(making.by_hand(model, adapter), making.batch(model))
    for loaded in _both(folder, base, task):
        torch.testing.assert_close(making.logits(loaded, making.batch(model)), wanted, atol=2e-5, rtol=0)


def test_ranks_per_site_keep_their_scale(tmp_path: Path) -> None:
    """A folded AdaLoRA: other ranks at each site and 0 at one, each with scale 1, in rank and alpha patterns."""
    base = tiny.folder("bert", tmp_path)
    model, head = making.shell(base)
    paths = making.sites("bert")
    ranks = {paths[0]: 1, paths[1]: 0, paths[2]: 3}
    adapter = making.lora(model, head, base, "bert", alpha=None, ranks=ranks)
    folder = adapter_file.write(tmp_path / "adapter", adapter)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] and len(config["target_modules"]) == len(paths) - 1
    wanted = making.logits(making.by_hand(model, adapter), making.batch(model))
    for loaded in _both(folder, base, "sequence-classification"):
        torch.testing.assert_close(making.logits(loaded, making.batch(model)), wanted, atol=2e-5, rtol=0)


def test_a_pooler_that_the_checkpoint_lacks_is_part_of_the_head(tmp_path: Path) -> None:
    """On a masked language model BERT's pooler is new, so peft keeps it as a module of the head."""
    base = tiny.mlm_folder("bert", tmp_path)
    model, head = making.shell(base)
    assert "bert.pooler.dense.weight" in head
    adapter = making.lora(model, head, base, "bert")
    assert head_modules(adapter) == ["bert.pooler.dense", "classifier"]
    folder = adapter_file.write(tmp_path / "adapter", adapter)
    wanted = making.logits(making.by_hand(model, adapter), making.batch(model))
    for loaded in _both(folder, base, "sequence-classification"):
        torch.testing.assert_close(making.logits(loaded, making.batch(model)), wanted, atol=2e-5, rtol=0)


def _prefix(tmp_path: Path, family: str, layers: int = tiny.BLOCKS) -> tuple[Path, PreTrainedModel, Stored]:
    base = tiny.folder(family, tmp_path)
    model, head = making.shell(base)
    config = model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    made = {
        f"layers.{i}.self_attn": {"keys": torch.randn(5, heads, size), "values": torch.randn(5, heads, size)}
        for i in range(layers)
    }
    return base, model, making.stored(model, head, base, "prefix", {"length": 5}, made)


def _with_cache(model: PreTrainedModel, adapter: Stored, given: dict[str, Tensor]) -> Tensor:
    """petune's prefix by hand: a cache of its keys and values, while positions still start at 0."""
    cache = DynamicCache()
    rows, tokens = given["input_ids"].shape
    for i, part in enumerate(adapter.layers.values()):
        keys, values = (part[name].transpose(0, 1).expand(rows, -1, -1, -1).contiguous() for name in ("keys", "values"))
        cache.update(keys, values, i)
    mask = torch.cat([torch.ones(rows, 5, dtype=torch.long), given["attention_mask"]], dim=1)
    positions = torch.arange(tokens).expand(rows, -1)
    with torch.no_grad():
        return model(
            input_ids=given["input_ids"], attention_mask=mask, position_ids=positions, past_key_values=cache
        ).logits


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_prefix_on_rotary_positions_is_the_same_in_peft(tmp_path: Path, family: str) -> None:
    """Keys turned by P positions make up for peft's shifted tokens, also with padding."""
    base, model, adapter = _prefix(tmp_path, family)
    folder = adapter_file.write(tmp_path / "adapter", adapter)
    making.by_hand(model, Stored(adapter.manifest, {}, adapter.head))
    wanted = _with_cache(model, adapter, making.batch(model))
    torch.manual_seed(11)
    fresh, _ = making.shell(base)
    loaded = peft.PeftModel.from_pretrained(fresh, str(folder)).eval()
    torch.testing.assert_close(making.logits(loaded, making.batch(model)), wanted, atol=2e-5, rtol=0)
    again = adapter_file.read(folder)
    for path, part in adapter.layers.items():
        assert all(torch.equal(again.layers[path][name], tensor) for name, tensor in part.items())


def test_a_prefix_of_some_layers_is_not_for_peft(tmp_path: Path) -> None:
    """peft's prefix acts in every layer; one that does not is written without a configuration, and it is said why."""
    _, _, adapter = _prefix(tmp_path, "llama", layers=1)
    assert "every layer" in (why_no_peft_config(adapter) or "")
    folder = adapter_file.write(tmp_path / "adapter", adapter)
    assert not (folder / "adapter_config.json").exists()


def test_a_soft_prompt_says_why() -> None:
    """peft has soft prompts too, at other places, so the reason is not that it has none."""
    prompted = Stored({"method": {"name": "prompt-tuning", "knobs": {}}})
    assert "first piece" in (why_no_peft_config(prompted) or "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, "positions"),
        ({"use_sliding_window": True}, "sliding"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"rope_parameters": {}, "rope_theta": None, "rope_scaling": None}, "rope_theta"),
    ],
)
def test_a_prefix_that_cannot_be_turned_says_why(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """Learnt positions, other kinds of rotation and sliding windows are named."""
    _, _, adapter = _prefix(tmp_path, "llama")
    backbone = adapter.manifest["backbone"]
    backbone["model_type"] = change.get("model_type", "llama")
    backbone["config"] = {**backbone["config"], **change}
    assert words in (why_no_peft_config(adapter) or "")
    assert adapter_config(adapter) is None


def test_bottleneck_is_not_for_peft(tmp_path: Path) -> None:
    """peft has no such method, so there is no configuration that it would misread."""
    adapter = making.small()
    manifest = {**adapter.manifest, "method": {"name": "bottleneck", "knobs": {"width": 2}}}
    folder = adapter_file.write(tmp_path, Stored(manifest, {"layer.0": making.bottleneck(2)}, adapter.head))
    assert not (folder / "adapter_config.json").exists()
    assert "base_model.model.bert.layer.0.down.weight" in load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=4, use_dora=True, target_modules=["query", "value"]),
        peft.IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]),
        peft.VeraConfig(r=4, target_modules=["query", "value"]),
        peft.OFTConfig(r=4, oft_block_size=0, target_modules=["query"]),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_the_long_tail_reads_back_in_peft_and_here(tmp_path: Path, config: Any) -> None:
    """DoRA, IA3, VeRA and OFT: peft gives the same logits from the folder, and petune the same tensors."""
    base = tiny.folder("bert", tmp_path)
    model, head = making.shell(base)
    injected = Peft(config=config).inject(model.base_model)
    with torch.no_grad():
        for parameter in injected.parameters_by_name().values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tensors = {name: tensor.clone() for name, tensor in injected.tensors().items()}
    adapter = making.stored(model, head, base, "peft", injected.method.to_knobs(), {"": tensors})
    making.by_hand(model, Stored({**adapter.manifest, "method": {"name": "x", "knobs": {}}}, {}, adapter.head))
    wanted = making.logits(model, making.batch(model))
    folder = adapter_file.write(tmp_path / "adapter", adapter)
    loaded = _by_peft(folder, base, "sequence-classification")
    torch.testing.assert_close(making.logits(loaded, making.batch(model)), wanted, atol=2e-5, rtol=0)
    again = adapter_file.read(folder)
    assert again.layers[""].keys() == tensors.keys()
    fresh, _ = making.shell(base)
    Peft.from_knobs(again.knobs).inject(fresh.base_model).load(again.layers[""])
    making.by_hand(fresh, Stored({**adapter.manifest, "method": {"name": "x", "knobs": {}}}, {}, again.head))
    assert torch.equal(making.logits(fresh, making.batch(model)), wanted)


def test_the_head_is_named_by_its_largest_modules() -> None:
    """The manifest's own list wins; without it a module outside of the backbone is taken whole."""
    shell = ["bert.a.weight", "classifier.dense.weight", "classifier.dense.bias", "classifier.out.weight"]
    assert largest_modules(shell[1:], shell) == ["classifier"]
    assert largest_modules(shell[3:], shell) == ["classifier.out"]
    assert largest_modules(["bert.b"], ["bert.b", *shell]) is None
    adapter = making.small()
    assert head_modules(adapter) == ["classifier"]
    assert head_modules(Stored({**adapter.manifest, "head_modules": ["x.y"]}, {}, adapter.head)) == ["x.y"]
    bare = Stored(adapter.manifest, adapter.layers, {"scale": torch.ones(1)})
    assert "bare parameter" in (why_no_peft_config(bare) or "")
