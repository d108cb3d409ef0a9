"""From fitted adapters and folders to one that is saved, served, merged and trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from petune import AdaptedModel, LoRA, TrainConfig, Tuner, merge_adapters
from petune.combining import report_of
from petune.errors import AdapterError
from petune.model.bank import Bank
from tests import tiny
from tests.combining.making import adapters, changes, logits, merged, off, summed
from tests.conformance.subjects import batch, differ

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it
CONFIG = TrainConfig(epochs=1, batch_size=8, progress="off")


def trained(home: Path, count: int = 2) -> list[Tuner]:
    """Tuners of other ranks on one folder."""
    methods = [LoRA(rank=2 + place, rslora=bool(place), targets=("query", "value")) for place in range(count)]
    return [
        Tuner(home, method=method, name=f"t{place}").fit(tiny.rows(8, seed=place), config=CONFIG)
        for place, method in enumerate(methods)
    ]


def test_the_whole_way(tmp_path):
    """Fitted, merged from folders and tuners, saved, loaded, read by peft, resident, merged in, trained on."""
    tuners = trained(tiny.folder("bert", tmp_path))
    folder = tuners[0].save(tmp_path / "first")
    both = merge_adapters([folder, tuners[1]], [0.25, 0.75], name="both")
    assert off(changes(both.adapter), summed([tuner.adapter for tuner in tuners], [0.25, 0.75])) < 1e-6
    texts = [row["text"] for row in tiny.rows(6, seed=5)]
    said = both.predict_proba(texts)
    assert (both.name, both.classes_, both.evaluate(tiny.rows(6)).rows) == ("both", ("bad", "good"), 6)
    assert "0.25 · t0 + 0.75 · t1" in str(both.report) and "2 + 3" in str(both.report)

    kept = both.save(tmp_path / "both")
    for loaded in (Tuner.load(kept, check=True), Tuner.load(kept, backbone=tiny.folder("bert", tmp_path / "moved"))):
        assert np.allclose(loaded.predict_proba(texts), said, atol=1e-6)
        assert report_of(loaded) == both.report
    inputs = batch("bert", "single")
    plain = AutoModelForSequenceClassification.from_pretrained(both.backbone.source, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(plain, kept).eval()
    with torch.no_grad():
        assert differ(theirs(**inputs).logits, logits(both, inputs)) <= 2e-5

    model = AdaptedModel(both.backbone.model, tokenizer=both.tokenizer).add("a", both).add("b", kept)
    assert model.predict(texts, adapters=["a", "b"] * 3) == both.predict(texts)
    both.merge()
    assert both.merge_receipt.max_logit_difference <= both.merge_receipt.tolerance
    both.unmerge()
    on = Tuner(both.backbone.source, method=both.method).fit(tiny.rows(8), config=CONFIG, continue_from=both)
    assert on.adapter.body.layers.keys() == both.adapter.body.layers.keys()


def test_folders_alone_open_the_recorded_backbone_once(tmp_path):
    """All adapters then live on one and the same; peft's folders need it given."""
    tuners = trained(tiny.folder("bert", tmp_path), 3)
    folders = [tuner.save(tmp_path / tuner.name) for tuner in tuners]
    both = merge_adapters(folders)
    assert both.backbone is not tuners[0].backbone
    assert off(changes(both.adapter), summed([tuner.adapter for tuner in tuners], [1 / 3] * 3)) < 1e-6
    given = merge_adapters(folders, backbone=tuners[0].backbone.model, tokenizer=tuners[0].tokenizer)
    assert given.backbone.model is tuners[0].backbone.model
    with pytest.raises(AdapterError, match="was not merged"):
        report_of(tuners[0])


def test_a_folder_that_peft_wrote(tmp_path):
    """rsLoRA with a rank and an alpha pattern: the product is peft's own."""
    home = tiny.folder("bert", tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(home, num_labels=2)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, use_rslora=True, target_modules=["query", "value"], task_type="SEQ_CLS",
        rank_pattern={"layer.0.attention.self.query": 2}, alpha_pattern={"layer.1.attention.self.value": 7},
        init_lora_weights=False,
    )  # fmt: skip
    theirs = peft.get_peft_model(plain, config)
    theirs.save_pretrained(tmp_path / "theirs")
    both = merge_adapters([tmp_path / "theirs"] * 2, backbone=home)
    inside = theirs.base_model.model.bert
    for path, change in changes(both.adapter).items():
        assert torch.allclose(change.float(), inside.get_submodule(path).get_delta_weight("default"), atol=1e-6)


def test_a_resident_adapter_can_be_merged():
    """One that lives in a bank gives what it gives alone."""
    made = adapters("rslora")
    wanted = changes(merged(made).adapter)
    bank = Bank(made[0].shell.backbone)
    for one in made:
        bank.add(one)
    assert off(changes(merged([bank.find("a"), bank.find("b")]).adapter), wanted) < 1e-7
