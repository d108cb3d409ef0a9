"""Folders that peft wrote, read here: equal logits, or an error that names the field or tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from petune.errors import AdapterFileError, ConfigError
from petune.lookup import find
from petune.methods.peft import Peft
from petune.storage import adapter_file
from petune.storage.peft_reading import TASKS
from tests import tiny
from tests.storage import making

pytestmark = [
    pytest.mark.filterwarnings(making.PEFT_WARNS),
    # peft takes its own empty factors and biases for broken ones.
    pytest.mark.filterwarnings("ignore:.*tensor\\(s\\) have invalid shape.*"),
    # AdaLoRA's own rank pattern has another form than LoRA's.
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match.*"),
]
TARGETS = {"bert": ["query", "value"], "gpt2": ["c_attn"], "llama": ["q_proj"], "distilbert": ["q_lin"]}


def _shaken(model: Any) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "prompt_encoder" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def _made(tmp_path: Path, family: str, config: Any, task: str = "sequence-classification") -> tuple[Path, Path, Tensor]:
    """A folder by peft, its base, and the logits that peft gives."""
    base = tiny.folder(family, tmp_path)
    model, _ = making.shell(base, task)
    wrapped = peft.get_peft_model(model, config)
    _shaken(wrapped)
    folder = tmp_path / "by-peft"
    wrapped.save_pretrained(folder)
    return folder, base, making.logits(wrapped.eval(), making.batch(model))


@pytest.mark.parametrize(
    ("family", "task", "fields", "alpha"),
    [
        ("bert", "SEQ_CLS", {"r": 4, "lora_alpha": 8}, 8),
        ("bert", "TOKEN_CLS", {"r": 4, "use_rslora": True}, 8),
        ("gpt2", "SEQ_CLS", {"r": 2, "fan_in_fan_out": True}, 8),
        ("llama", "SEQ_CLS", {"r": 2, "rank_pattern": {"layers.0.self_attn.q_proj": 5}}, 8),
        ("bert", "SEQ_CLS", {"r": 4, "alpha_pattern": {"query": 3}, "rank_pattern": {"value": 2}}, None),
        ("distilbert", "SEQ_CLS", {"r": 4, "modules_to_save": ["pre_classifier"]}, 8),
    ],
)
def test_lora_gives_the_same_logits(tmp_path: Path, family: str, task: str, fields: dict[str, Any], alpha: Any) -> None:
    """Ranks and alphas per module, rsLoRA, GPT-2 and several head modules come over; labels get names in a notice."""
    ours = {"SEQ_CLS": "sequence-classification", "TOKEN_CLS": "token-classification"}[task]
    config = peft.LoraConfig(task_type=task, target_modules=TARGETS[family], **fields)
    folder, base, wanted = _made(tmp_path, family, config, ours)
    adapter = adapter_file.read(folder)
    assert adapter.method == "lora" and adapter.knobs["alpha"] == alpha
    assert adapter.manifest["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert adapter.manifest["task"]["name"] == ours
    assert any("label names" in notice for notice in adapter.notices)
    knobs = {"rslora": False, **adapter.knobs}
    adapter.manifest["method"]["knobs"] = knobs
    model, head = making.shell(base, ours)
    assert set(adapter.head) == set(head)
    got = making.logits(making.by_hand(model, adapter), making.batch(model))
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=0)
    again = adapter_file.write(tmp_path / "ours", adapter)
    assert torch.equal(adapter_file.read(again).head["score.weight" if "score.weight" in head else "classifier.weight"],
                       adapter.head["score.weight" if "score.weight" in head else "classifier.weight"])  # fmt: skip


@pytest.mark.parametrize(("task", "outputs"), [("SEQ_CLS", 3), ("SEQ_CLS", 1), ("TOKEN_CLS", 3)])
def test_the_task_is_ready_to_use(tmp_path: Path, task: str, outputs: int) -> None:
    """What is read makes a task that needs no training rows; a single output is a regression."""
    base = tiny.folder("bert", tmp_path)
    model, _ = making.shell(base, TASKS[task], outputs)
    peft.get_peft_model(model, peft.LoraConfig(task_type=task, target_modules=["query"])).save_pretrained(
        tmp_path / "p"
    )
    said = adapter_file.read(tmp_path / "p").manifest
    made = find("tasks", said["task"]["name"])(**said["task"]["knobs"], labels=tuple(said["labels"]))
    assert made.model_config()["num_labels"] == outputs


def test_adalora_is_folded_with_peft_s_own_scale(tmp_path: Path) -> None:
    """E goes into A with alpha / (ranks + 1e-5); a site pruned to rank 0 stays there, empty."""
    config = peft.AdaLoraConfig(
        task_type="SEQ_CLS", init_r=4, target_r=2, total_step=10, lora_alpha=7, target_modules=["query"]
    )
    base = tiny.folder("bert", tmp_path)
    model, _ = making.shell(base)
    wrapped = peft.get_peft_model(model, config)
    _shaken(wrapped)
    kept = {0: [True, False, True, False], 1: [False] * 4}
    site = "bert.encoder.layer.{}.attention.self.query.lora_E"
    wrapped.peft_config["default"].rank_pattern = {site.format(i): mask for i, mask in kept.items()}
    wrapped.save_pretrained(tmp_path / "by-peft")
    torch.manual_seed(4)
    fresh, _ = making.shell(base)
    wanted = making.logits(peft.PeftModel.from_pretrained(fresh, str(tmp_path / "by-peft")).eval(), making.batch(model))
    adapter = adapter_file.read(tmp_path / "by-peft")
    assert adapter.method == "lora" and adapter.manifest["trained_as"] == "adalora"
    assert [pair["lora_A"].shape[0] for pair in adapter.layers.values()] == [2, 0]
    adapter.manifest["method"]["knobs"] = {"rslora": False, **adapter.knobs}
    model, _ = making.shell(base)
    got = making.logits(making.by_hand(model, adapter), making.batch(model))
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=0)


def test_a_prefix_comes_over_on_rotary_families(tmp_path: Path) -> None:
    """peft's matrix becomes keys turned back and values; written again, it is peft's matrix again."""
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    base = tiny.folder("llama", tmp_path)
    model, _ = making.shell(base)
    wrapped = peft.get_peft_model(model, config)
    _shaken(wrapped)
    wrapped.save_pretrained(tmp_path / "by-peft")
    adapter = adapter_file.read(tmp_path / "by-peft")
    assert adapter.knobs == {"length": 3} and list(adapter.layers) == ["layers.0.self_attn", "layers.1.self_attn"]
    matrix = load_file(tmp_path / "by-peft" / "adapter_model.safetensors")["prompt_embeddings"]
    adapter_file.write(tmp_path / "ours", adapter)
    again = load_file(tmp_path / "ours" / "adapter_model.safetensors")["prompt_embeddings"]
    torch.testing.assert_close(again, matrix, atol=1e-5, rtol=0)


def test_a_prefix_elsewhere_is_refused_with_the_reason(tmp_path: Path) -> None:
    """BERT's learnt positions cannot be turned back."""
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    wrapped = peft.get_peft_model(making.shell(tiny.folder("bert", tmp_path))[0], config)
    wrapped.save_pretrained(tmp_path / "by-peft")
    with pytest.raises(AdapterFileError, match="positions cannot be turned back"):
        adapter_file.read(tmp_path / "by-peft")


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(task_type="SEQ_CLS", r=4, use_dora=True, target_modules=["query"]),
        peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_bias=True, target_modules=["query"]),
        peft.IA3Config(task_type="SEQ_CLS", target_modules=["key"], feedforward_modules=[]),
        peft.VeraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]),
        peft.OFTConfig(task_type="SEQ_CLS", r=4, oft_block_size=0, target_modules=["query"]),
    ],
    ids=["dora", "lora_bias", "ia3", "vera", "oft"],
)
def test_what_only_peft_computes_goes_to_the_long_tail(tmp_path: Path, config: Any) -> None:
    """The same modules on the same backbone give the same logits to the bit."""
    folder, base, wanted = _made(tmp_path, "bert", config)
    adapter = adapter_file.read(folder)
    assert adapter.method == "peft"
    model, _ = making.shell(base)
    Peft.from_knobs(adapter.knobs).inject(model.base_model).load(adapter.layers[""])
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in adapter.head.items():
            named[name].copy_(tensor)
    assert torch.equal(making.logits(model, making.batch(model)), wanted)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA folder by peft."""
    place = tmp_path_factory.mktemp("good")
    with pytest.warns(FutureWarning):
        return _made(place, "bert", peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))[0]


def _edited(
    good: Path, place: Path, fields: dict[str, Any], tensors: Callable[[dict[str, Tensor]], None] | None = None
) -> Path:
    folder = Path(shutil.copytree(good, place / "edited"))
    said = json.loads((folder / "adapter_config.json").read_text()) | fields
    (folder / "adapter_config.json").write_text(json.dumps({k: v for k, v in said.items() if v != "DROP"}))
    if tensors is not None:
        held = load_file(folder / "adapter_model.safetensors")
        tensors(held)
        save_file(held, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bias": "all"}, "biases"),
        ({"trainable_token_indices": [1]}, "embeddings"),
        ({"layer_replication": [[0, 2]]}, "layers"),
        ({"target_parameters": ["x"]}, "bare parameters"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"alora_invocation_tokens": [1]}, "tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "rewritten backbone"),
        ({"use_superlora": True}, "use_superlora"),
        ({"lora_alfa": 3}, "lora_alpha"),
        ({"task_type": "QUESTION_ANS"}, "another release"),
        ({"peft_type": "P_TUNING"}, "P_TUNING"),
        ({"peft_type": "DROP"}, "peft_type"),
        ({"r": 3}, "rank 3"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": 1e999}, "JSON"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"lora_dropout": "x"}, "lora_dropout"),
        ({"target_modules": ["query"]}, "no target"),
        ({"target_modules": ["query", "value", "quary"]}, "query"),
        ({"target_modules": 7}, "target_modules' is a int"),
        ({"rank_pattern": {"(a+)+$": 2}}, "regular expressions"),
        ({"modules_to_save": [3]}, "names"),
        ({"task_type": None, "modules_to_save": None}, "no head"),
        ({"layers_to_transform": None, "base_model_name_or_path": "DROP", "use_newthing": {"a": 1}}, "use_newthing"),
    ],
    ids=str,
)
def test_a_field_that_changes_the_result_is_an_error(
    good: Path, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    """Each message names the field or what it does; peft loads several of these without a word."""
    with pytest.raises(AdapterFileError, match=words):
        adapter_file.read(_edited(good, tmp_path, fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"use_superlora": False, "newer": None, "more": {}},
        {"task_type": None, "modules_to_save": ["classifier"]},
        {"target_modules": "all-linear"},
        {"base_model_name_or_path": None},
    ],
    ids=str,
)
def test_a_field_that_changes_nothing_is_accepted(good: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    """What a newer peft writes for features that are off, a missing task beside a head, a missing base."""
    adapter = adapter_file.read(_edited(good, tmp_path, fields))
    assert adapter.prefix == "bert" and len(adapter.layers) == 4


SITE = "base_model.model.bert.encoder.layer.1.attention.self.value"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{SITE}.lora_B.weight"), "lora_B"),
        (lambda t: [t.pop(name) for name in list(t) if ".layer.1." in name], "block 1"),
        (
            lambda t: t.update({"base_model.model.bert.embeddings.word_embeddings.weight": torch.ones(2, 2)}),
            "word_embeddings",
        ),
        (lambda t: t.update({f"{SITE}.base_layer.weight": torch.ones(2, 2)}), "base_layer"),
        (lambda t: t.update({f"{SITE}.lora_A.weight": torch.ones(3, 32)}), "do not fit"),
        (lambda t: t[f"{SITE}.lora_A.weight"].fill_(float("nan")), "NaN"),
        (lambda t: t.update({f"{SITE}.lora_A.weight": torch.ones(2, 32, dtype=torch.int8)}), "do not fit"),
        (lambda t: [t.pop(name) for name in list(t) if "classifier" in name], "no classification head|names 'clas"),
        (lambda t: [t.pop(name) for name in list(t) if "lora" in name], "no LoRA factors"),
    ],
)
def test_tensors_that_do_not_belong_are_errors(good: Path, tmp_path: Path, change: Any, words: str) -> None:
    """Missing factors, whole blocks, backbone weights in disguise, non-finite values."""
    with pytest.raises(AdapterFileError, match=words):
        adapter_file.read(_edited(good, tmp_path, {}, change))


def test_the_backbone_s_configuration_can_be_given(good: Path, tmp_path: Path) -> None:
    """Without a base at hand, the caller's own backbone tells prefix and number of blocks."""
    folder = _edited(good, tmp_path, {"base_model_name_or_path": "not/here"})
    said = AutoConfig.from_pretrained(good.parent / "tiny-bert-0")
    adapter = adapter_file.read(folder, config=said)
    assert adapter.manifest["backbone"]["model_type"] == "bert" and adapter.prefix == "bert"
    assert adapter.manifest["backbone"]["id"] == "not/here"


def test_a_pickle_is_never_opened(good: Path, tmp_path: Path) -> None:
    """adapter_model.bin is refused with the way to convert it."""
    folder = _edited(good, tmp_path, {})
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterFileError, match="pickle"):
        adapter_file.read(folder)


def test_a_long_tail_field_of_a_newer_peft_is_an_error(tmp_path: Path) -> None:
    """The installed peft does not know the field, so it could not honour it."""
    with pytest.raises(ConfigError, match="use_later"):
        Peft.from_knobs({"config": {"peft_type": "IA3", "use_later": True}})
