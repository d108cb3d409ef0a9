"""Good folders of every kind: told for what they are, with nothing to say against them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest

import petune
from petune import TrainConfig
from petune.doctor import diagnose
from tests import tiny, tuners
from tests.doctor import folders
from tests.storage import making


@pytest.mark.parametrize(("kind", "make"), folders.GOOD.items(), ids=list(folders.GOOD))
def test_a_good_folder_has_no_findings(tmp_path: Path, kind: str, make: Callable[[Path], Path]) -> None:
    """It is called what it is, and nothing is found in it or beneath it."""
    diagnosis = diagnose(make(tmp_path))
    assert diagnosis.kind == kind
    assert list(diagnosis.all_findings()) == []
    assert diagnosis.ok and "fine" in str(diagnosis)


def test_the_facts_of_an_adapter(tmp_path: Path) -> None:
    """Method, rank, targets, task, labels, backbone, sizes, versions and licence are told."""
    folder = folders.own(tmp_path)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# small\n")
    facts = diagnose(folder).facts
    told = {key: facts[key] for key in ("name", "method", "rank", "targets", "sites", "task", "labels", "license")}
    assert told == {
        "name": "small",
        "method": "lora",
        "rank": 2,
        "targets": ["q"],
        "sites": 2,
        "task": "sequence-classification",
        "labels": ["bad", "good"],
        "license": "apache-2.0",
    }
    assert facts["backbone"]["id"] == "some/bert" and "torch" in facts["versions"]
    assert facts["bytes"] == sum(path.stat().st_size for path in folder.iterdir())


def test_a_run_tells_where_it_goes_on(tmp_path: Path) -> None:
    """With a damaged newest checkpoint it is the one before that; the damage is named."""
    folder = folders.run(tmp_path)
    assert diagnose(folder).facts["resumes_after_step"] == 6
    newest = folder / "checkpoint-00000006"
    (newest / "state.safetensors").write_bytes(b"")
    diagnosis = diagnose(folder)
    assert diagnosis.facts["newest"] == newest.name and diagnosis.facts["newest_whole"] == "checkpoint-00000003"
    assert not diagnosis.ok and [one.file for one in diagnosis.all_findings()] == ["state.safetensors"]
    assert diagnose(newest).kind == "checkpoint" and not diagnose(newest).ok


def test_a_store_tells_who_is_sick(tmp_path: Path) -> None:
    """Each adapter has its own diagnosis; one sick one makes the store sick."""
    folder = folders.store(tmp_path)
    (folder / "own" / folders.ADAPTER).write_bytes(b"")
    diagnosis = diagnose(folder)
    assert {one.folder.name: one.ok for one in diagnosis.inside} == {"own": False, "by-peft": True}
    assert not diagnosis.ok and diagnosis.facts["adapters"] == 2


@pytest.mark.filterwarnings(making.PEFT_WARNS)
def test_what_peft_saves_is_good(tmp_path: Path) -> None:
    """A folder by the installed peft: at most notes, its rank and targets told."""
    shell, _ = making.shell(tiny.folder("bert", tmp_path))
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], init_lora_weights=False)
    peft.get_peft_model(shell, config).save_pretrained(tmp_path / "by-peft")
    diagnosis = diagnose(tmp_path / "by-peft")
    assert {one.severity for one in diagnosis.findings} <= {"note"}
    told = [diagnosis.facts[key] for key in ("method", "rank", "targets", "sites", "labels")]
    assert told == ["LORA", 4, ["query", "value"], 4, ["LABEL_0", "LABEL_1", "LABEL_2"]]


@pytest.mark.parametrize("method", ["lora", "prefix", "full"])
def test_what_a_tuner_saves_is_good(tmp_path: Path, method: str) -> None:
    """Adapter, whole model and checkpoints of a real fit have no findings."""
    config = TrainConfig(epochs=1, output_dir=tmp_path / "run", save_every=1, **tuners.QUIET)
    tuner = tuners.fresh(method=method).fit(tuners.ROWS, config=config)
    for folder in (tuner.save(tmp_path / "saved"), tmp_path / "run"):
        diagnosis = diagnose(folder)
        assert [one for one in diagnosis.all_findings() if one.kind != "mode"] == []
        assert diagnosis.ok
    assert petune.diagnose(tmp_path / "saved").facts["labels"] == ["bad", "good"]
    assert diagnose(tmp_path / "run").inside[0].facts["method"] == method


def test_an_adapter_beside_its_checkpoints(tmp_path: Path) -> None:
    """A folder may be both: the adapter and the run that made it."""
    folder = folders.run(tmp_path)
    folders.own(tmp_path)
    for path in (tmp_path / "own").iterdir():
        path.rename(folder / path.name)
    diagnosis = diagnose(folder)
    assert diagnosis.kind == "petune adapter and run" and len(diagnosis.inside) == 2 and diagnosis.ok


def test_a_missing_folder_is_answered_with_the_near_one(tmp_path: Path) -> None:
    """The fix names the adapter that was meant."""
    folders.own(tmp_path)
    assert "'own'" in diagnose(tmp_path / "owm").findings[0].fix
    assert str(tmp_path / "own") in diagnose(tmp_path / "own" / folders.ADAPTER).findings[0].fix


def test_json_holds_everything(tmp_path: Path) -> None:
    """`to_dict` is JSON, with what is inside."""
    told = json.loads(json.dumps(diagnose(folders.store(tmp_path)).to_dict()))
    assert told["ok"] and [one["kind"] for one in told["inside"]] == ["peft adapter", "petune adapter"]
    assert set(told) == {"folder", "kind", "ok", "facts", "findings", "inside"}
