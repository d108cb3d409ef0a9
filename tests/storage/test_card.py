"""The card holds facts, and no field that is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from petune.storage.card import card, hub_id
from petune.storage.stored import Stored
from tests.storage import making


def _with(**changes: Any) -> Stored:
    small = making.small()
    backbone = {**small.manifest["backbone"], **changes.pop("backbone", {})}
    return Stored({**small.manifest, "backbone": backbone, **changes}, small.layers, small.head)


def _header(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---")[1]))


def test_the_header_is_what_the_hub_reads() -> None:
    """Library, base, task, tags and results."""
    header = _header(card(making.small()))
    assert header["library_name"] == "peft" and header["base_model"] == "some/bert"
    assert header["base_model_relation"] == "adapter" and header["pipeline_tag"] == "text-classification"
    assert header["tags"] == ["petune", "lora", "base_model:adapter:some/bert"]
    metric = header["model-index"][0]["results"][0]["metrics"][0]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.75)


def test_a_local_path_is_never_told(tmp_path: Path) -> None:
    """A folder on this machine is no base model for others."""
    for place in (str(tmp_path), "/somewhere/else"):
        adapter = _with(backbone={"id": place, "path_or_id": place})
        text = card(adapter)
        assert hub_id(adapter) is None and place not in text and "base_model" not in _header(text)


def test_no_results_no_index() -> None:
    """Without metrics there is neither a table nor a model-index."""
    text = card(_with(metrics={}))
    assert "## Results" not in text and "model-index" not in _header(text) and "More Information" not in text


def test_labels_knobs_and_versions_are_tables() -> None:
    """Labels in class order, knobs that differ from the defaults only, the versions; pipes are escaped."""
    text = card(_with(labels=["a|b", "c"]))
    assert "| 0 | a\\|b |" in text and "| rank | 2 |" in text and "| seed | 3 |" in text and "| torch |" in text
    assert "rslora" not in text


def test_the_code_names_both_ways_to_load() -> None:
    """petune's three lines, and peft's where peft can read the adapter; else the reason."""
    text = card(making.small(), folder="me/adapter")
    assert 'Tuner.load("me/adapter")' in text and 'PeftModel.from_pretrained(model, "me/adapter")' in text
    assert "num_labels=2" in text
    other = card(_with(method={"name": "bottleneck", "knobs": {}}))
    assert "Not for peft" in other and _header(other)["library_name"] == "petune"


@pytest.mark.parametrize("task", ["token-classification", "something-new"])
def test_other_tasks(task: str) -> None:
    """A task that the hub has no name for gets no pipeline tag, and no code that could be wrong."""
    text = card(_with(task={"name": task, "knobs": {}}))
    assert ("pipeline_tag" in _header(text)) == (task == "token-classification")
    assert ("AutoModelForTokenClassification" in text) == (task == "token-classification")
