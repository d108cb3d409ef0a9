"""Language models at rest: probes, digests of their heads, peft's folders both ways, full fine-tunings."""

from __future__ import annotations

import json
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

from petune import TrainConfig, Tuner
from petune.errors import AdapterFileError, BackboneError
from petune.model.running import run
from petune.storage import strict_json
from petune.storage.packing import check_probe
from tests import tiny
from tests.conformance.subjects import differ, method
from tests.language import PAIRED, language_model, rows, task
from tests.storage import making

pytestmark = pytest.mark.filterwarnings(making.PEFT_WARNS)
QUIET = TrainConfig(epochs=2, batch_size=8, progress="off")


def fitted(model: Any, family: str, recipe: str = "lora", **knobs: Any) -> Tuner:
    """A tuner on a tiny language model or its folder."""
    made = Tuner(
        model, task=task(family, max_new_tokens=6), method=method(recipe, **knobs), tokenizer=tokenizer(family)
    )
    return made.fit(rows(family, 8), config=QUIET)


def tokenizer(family: str) -> Any:
    """The family's tokenizer."""
    return tiny.tokenizer(family)


def given(family: str) -> dict[str, torch.Tensor]:
    """Two rows of pieces."""
    ids = torch.randint(5, 190, (2, 7), generator=torch.Generator().manual_seed(5))
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, :4]} if family in PAIRED else {})}


def logits_of(tuner: Tuner, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The adapter's logits."""
    with torch.no_grad():
        return run(tuner._bank, tuner._bank.frame(tuner.name), inputs).logits


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_an_adapter_holds_nothing_of_the_head(family, tmp_path):
    """What is saved is the layers alone; the manifest names the head's digest where it is not the embeddings."""
    tuner = fitted(language_model(family, untied=True), family)
    tuner.save(tmp_path)
    said = strict_json.loads((tmp_path / "petune.json").read_bytes(), source="petune.json")
    assert said["layout"]["head"] == []
    assert said["labels"] == []
    assert len(said["backbone"]["outputs"]) == 64
    tied = fitted(language_model("gpt2"), "gpt2")
    assert tied.save(tmp_path / "tied")
    said = json.loads((tmp_path / "tied" / "petune.json").read_text())
    assert said["backbone"]["outputs"] is None


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_another_head_is_refused(family, tmp_path):
    """Base model and head come from one checkpoint: with another head the adapter is not loaded."""
    model = language_model(family, untied=True)
    fitted(model, family).save(tmp_path)
    assert Tuner.load(tmp_path, backbone=language_model(family, untied=True), check=True)
    other = language_model(family, untied=True)
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    with pytest.raises(AdapterFileError, match="another language modelling head"):
        Tuner.load(tmp_path, backbone=other)
    if family == "llama":  # whose base model alone brings no head
        with pytest.raises(AdapterFileError, match=r"lm_head"):
            Tuner.load(tmp_path, backbone=model.base_model)


def test_a_probe_keeps_a_part_of_a_large_vocabulary(tmp_path):
    """The manifest stays small, and replaying still finds an adapter that answers otherwise."""
    model = language_model("llama", vocab_size=3000)
    tuner = fitted(model, "llama")
    tuner.save(tmp_path)
    said = json.loads((tmp_path / "petune.json").read_text())
    assert torch.tensor(said["probe"]["logits"]).shape == (2, 12, 64)
    loaded = Tuner.load(tmp_path, backbone=model, check=True)
    assert differ(logits_of(loaded, given("llama")), logits_of(tuner, given("llama"))) == 0
    said["probe"]["logits"][0][0][5] += 1.0
    with pytest.raises(AdapterFileError, match="answers on its probe differ"):
        check_probe(said["probe"], loaded._probe(loaded.adapter), torch.float32)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_peft_loads_what_petune_saved(family, tmp_path):
    """A LoRA of a language model is a peft adapter of its task type, with equal logits."""
    model = language_model(family)
    model.save_pretrained(tmp_path / "base")
    tuner = fitted(tmp_path / "base", family)
    tuner.save(tmp_path / "adapter")
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert said["task_type"] == ("SEQ_2_SEQ_LM" if family in PAIRED else "CAUSAL_LM")
    by_peft = peft.PeftModel.from_pretrained(language_model(family), str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        assert differ(by_peft(**given(family)).logits, logits_of(tuner, given(family))) <= 2e-5
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "num_labels" not in card
    assert f"AutoModelFor{'Seq2SeqLM' if family in PAIRED else 'CausalLM'}.from_pretrained" in card


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_petune_loads_what_peft_saved(family, tmp_path):
    """peft's LoRA of a causal or sequence-to-sequence model: equal logits, and it writes."""
    kind = "SEQ_2_SEQ_LM" if family in PAIRED else "CAUSAL_LM"
    targets = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "t5": ["q", "v"], "bart": ["q_proj", "v_proj"]}
    config = peft.LoraConfig(
        r=4, target_modules=targets[family], task_type=kind, init_lora_weights=False, fan_in_fan_out=family == "gpt2"
    )
    theirs = peft.get_peft_model(language_model(family), config).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer(family).save_pretrained(tmp_path)
    tuner = Tuner.load(tmp_path, backbone=language_model(family))
    with torch.no_grad():
        assert differ(logits_of(tuner, given(family)), theirs(**given(family)).logits) <= 2e-5
    assert len(tuner.generate(["a great film"], max_new_tokens=4)) == 1


def test_a_head_that_peft_trained_is_refused(tmp_path):
    """peft may train the lm_head as well; here it belongs to the backbone, so such a folder is not half loaded."""
    model = language_model("llama")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    tokenizer("llama").save_pretrained(tmp_path)
    with pytest.raises(AdapterFileError, match=r"lm_head\.weight' fits nowhere"):
        Tuner.load(tmp_path, backbone=language_model("llama"))


@pytest.mark.parametrize(("family", "untied"), [("gpt2", False), ("llama", True), ("t5", False), ("t5", True)])
def test_a_full_fine_tuning_is_a_plain_language_model(family, untied, tmp_path):
    """transformers loads the folder with its own class, the trained head included; petune loads it as well."""
    tuner = fitted(language_model(family, untied=untied), family, "full")
    said = tuner.evaluate(rows(family, 8))["loss"]
    tuner.save(tmp_path)
    auto = getattr(transformers, tuner.task.auto_class)
    loaded, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    with torch.no_grad():
        own = tuner.adapter.shell.model.eval()(**given(family)).logits
        assert differ(loaded.eval()(**given(family)).logits, own) == 0
    again = Tuner.load(tmp_path, check=True)
    assert again.evaluate(rows(family, 8))["loss"] == said
    prompts = [next(iter(row.values())) for row in rows(family, 3)]
    assert again.generate(prompts, num_beams=2) == tuner.generate(prompts, num_beams=2)


def test_a_folder_of_the_whole_language_model_is_one_backbone_for_all(tmp_path):
    """One checkpoint, a classifier and a language model's adapter on it: both load on it, with one fingerprint."""
    language_model("llama", untied=True).save_pretrained(tmp_path / "base")
    tokenizer("llama").save_pretrained(tmp_path / "base")
    fitted(tmp_path / "base", "llama").save(tmp_path / "writer")
    Tuner(tmp_path / "base").fit(tiny.rows(8), config=QUIET).save(tmp_path / "labels")
    prints = {
        json.loads((tmp_path / name / "petune.json").read_text())["backbone"]["fingerprint"]
        for name in ("writer", "labels")
    }
    assert len(prints) == 1
    assert Tuner.load(tmp_path / "writer").predict(["a great film"])
    assert Tuner.load(tmp_path / "labels").predict(["a great film"])


def test_a_head_of_another_size_is_refused(tmp_path) -> None:
    """A checkpoint whose head does not fit its vocabulary is an error, and no fresh head in silence."""
    model = language_model("llama", untied=True)
    model.save_pretrained(tmp_path)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    weights["lm_head.weight"] = weights["lm_head.weight"][:100].contiguous()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="could not be read"):
        fitted(tmp_path, "llama")
