"""What must never pass in silence: another tokenizer, another part, other weights, a name that is no site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModel

from petune import AdaptedModel, LoRA, TrainConfig, Tuner
from petune.errors import AdapterFileError, BackboneError, DataError, UnknownNameError
from tests import tiny

ROWS = tiny.rows(24)
TEXTS = [row["text"] for row in tiny.rows(10, seed=4)]
QUICK = TrainConfig(epochs=1, progress="off")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone and two adapters, one of which has a tokenizer of its own."""
    place = tmp_path_factory.mktemp("home")
    backbone = tiny.folder("bert", place).rename(place / "backbone")
    Tuner(backbone, name="plain").fit(ROWS, config=QUICK).save(place / "plain")
    other = tiny.tokenizer("bert", words=tuple(reversed(tiny.WORDS)))
    learnt = TrainConfig(epochs=12, learning_rate=1e-2, progress="off")
    Tuner(backbone, name="other", tokenizer=other).fit(ROWS, config=learnt).save(place / "other")
    return place


def test_an_adapter_brings_its_tokenizer(home):
    """Each row of a mixed call is cut by the tokenizer that its own adapter was trained with."""
    model = AdaptedModel(home / "backbone").add("plain", home / "plain").add("other", home / "other")
    solo = {name: Tuner.load(home / name).predict(TEXTS) for name in ("plain", "other")}
    names = ["plain", "other"] * 5
    assert model.predict(TEXTS, adapters=names) == [solo[name][row] for row, name in enumerate(names)]


def test_predict_follows_the_route_around_it(home):
    """Inside `routed`, predict asks that adapter and not the default."""
    model = AdaptedModel(home / "backbone").add("plain", home / "plain").add("other", home / "other").use("plain")
    with model.routed("other"):
        assert model.predict(TEXTS) == Tuner.load(home / "other").predict(TEXTS)


def test_frames_and_datasets_are_answered_by_an_adapted_model(home):
    """A DataFrame, a Series and a Dataset give the answers of the list of their texts."""
    model = AdaptedModel(home / "backbone").add("plain", home / "plain")
    expected, frame = model.predict(TEXTS, adapters="plain"), pd.DataFrame({"text": TEXTS})
    for given in (frame, frame["text"], Dataset.from_pandas(frame)):
        assert model.predict(given, adapters="plain") == expected


def test_a_dataset_dict_is_not_scored_by_its_training_part(home):
    """evaluate and predict refuse several parts; fit says which one it took."""
    parts = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(tiny.rows(6)))
    tuner = Tuner(home / "backbone").fit(parts, config=QUICK)
    assert any("'train'" in notice for notice in tuner.report.notices)
    for ask in (tuner.evaluate, tuner.predict):
        with pytest.raises(DataError, match=r"train, test.*data\['test'\]"):
            ask(parts)


def test_a_cast_backbone_is_known_by_its_answers(home):
    """In another precision the same weights are accepted, other weights are refused."""
    model: Any = AutoModel.from_pretrained(home / "backbone").to(torch.bfloat16)
    assert any("bfloat16" in notice for notice in Tuner.load(home / "plain", model).notices)
    for parameter in model.parameters():
        parameter.data.normal_()
    with pytest.raises(AdapterFileError, match="other weights"):
        Tuner.load(home / "plain", model)


def test_a_rank_for_no_site_is_refused(home):
    """A typo in `LoRA(ranks=...)` is answered with the near site."""
    wrong = LoRA(ranks={"encoder.layer.0.atention.self.query": 2})
    with pytest.raises(UnknownNameError, match=r"encoder\.layer\.0\.attention\.self\.query"):
        Tuner(home / "backbone", method=wrong)


def test_a_batch_longer_than_the_positions_is_refused(home):
    """Token ids that are too long for the backbone get a clear error, not torch's."""
    model = AdaptedModel(home / "backbone").add("plain", home / "plain")
    with pytest.raises(BackboneError, match=r"500 pieces.*positions"):
        model(input_ids=torch.ones(1, 500, dtype=torch.long), route="plain")


def test_truncation_is_said_when_nothing_is_learnt(home, caplog):
    """evaluate warns that a row was cut."""
    Tuner.load(home / "plain").evaluate([{"text": "film " * 300, "label": "bad"}])
    assert any("longer than" in record.message for record in caplog.records)


def test_a_truncated_backbone_is_a_clear_error(home, tmp_path):
    """Half a weights file is named as such."""
    (tmp_path / "config.json").write_bytes((home / "backbone" / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((home / "backbone" / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(BackboneError, match="No transformers model could be loaded"):
        Tuner(tmp_path)


def test_a_merged_copy_of_a_peft_method_leaves_the_tuner_alone(home):
    """The copy answers as the tuner, is a plain model, and the tuner's answers keep their bits."""
    import peft

    tuner = Tuner(home / "backbone", method=peft.LoraConfig(r=2, target_modules=["query"])).fit(ROWS, config=QUICK)
    before = tuner.predict_proba(TEXTS)
    copied: Any = tuner.merged_copy()
    assert not [name for name, _ in copied.named_modules() if "lora" in name]
    with torch.no_grad():
        said = copied.eval()(**tuner.tokenizer(TEXTS, return_tensors="pt", padding=True)).logits.softmax(-1).numpy()
    assert abs(said - before).max() < 1e-6
    assert (tuner.predict_proba(TEXTS) == before).all()
