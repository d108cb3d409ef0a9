"""Each kind of finding: a folder that shows it, with severity, file and key; petune refuses what is called an error."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.doctor import Diagnosis, Finding, diagnose
from petune.doctor.finding import KINDS
from petune.errors import PetuneError
from petune.storage import adapter_file, checkpoint, container
from tests.doctor import folders
from tests.doctor.folders import ADAPTER, CONFIG, EXPORT, A, B, edit, resealed, retensored

Damage = Callable[[Path], object]
NAN = float("nan")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flipped(path: Path, place: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def _out(folder: Path) -> None:
    target = folder.parent / "elsewhere.md"
    target.write_text("hello")
    (folder / "notes.md").symlink_to(target)


def _peft_field(**fields: Any) -> Damage:
    return lambda folder: edit(folder / CONFIG, **fields)


def _sealed(change: Callable[[Any, Any], object]) -> Damage:
    return lambda folder: resealed(folder, change)


def _tensors(change: Callable[[Any], object]) -> Damage:
    return lambda folder: retensored(folder, change)


def _only_pickle(folder: Path, name: str, instead: str) -> None:
    (folder / instead).unlink()
    torch.save({"a": torch.ones(1)}, folder / name)


OWN, PEFT, HUB, PREFIX = folders.own, folders.peft, folders.adapterhub, folders.prefix
MODEL, FULL, RUN = folders.model, folders.full, folders.run
BASE_KEY = A.replace("lora_A", "base_layer")
CASES: list[tuple[str, str, Callable[[Path], Path], Damage, str, str]] = [
    # kind, severity, a good folder, what is done to it, the file that is named, a part of the key
    ("missing", "error", OWN, shutil.rmtree, "", ""),
    ("missing", "error", OWN, lambda f: (f / ADAPTER).unlink(), ADAPTER, ""),
    ("nothing-known", "error", OWN, lambda f: [path.unlink() for path in f.iterdir()], "", ""),
    ("unreadable", "error", OWN, lambda f: ((f / ADAPTER).unlink(), (f / ADAPTER).mkdir()), ADAPTER, ""),
    ("broken-container", "error", OWN, lambda f: _cut(f / ADAPTER), ADAPTER, ""),
    ("broken-container", "error", PEFT, lambda f: (f / ADAPTER).write_bytes(b"version https://git-lfs"), ADAPTER, ""),
    ("broken-container", "error", MODEL, lambda f: _cut(f / "model.safetensors"), "model.safetensors", ""),
    ("broken-container", "error", HUB, lambda f: _cut(f / "adapter.safetensors"), "adapter.safetensors", ""),
    ("broken-json", "error", PEFT, lambda f: _cut(f / CONFIG), CONFIG, ""),
    ("broken-json", "error", OWN, lambda f: _cut(f / EXPORT), EXPORT, ""),
    ("newer-schema", "error", OWN, _sealed(lambda m, t: m.update(schema=99, petune="9.0")), ADAPTER, ""),
    ("newer-schema", "error", FULL, lambda f: edit(f / EXPORT, schema=99), EXPORT, ""),
    ("bad-manifest", "error", OWN, _sealed(lambda m, t: m.pop("labels")), ADAPTER, "labels"),
    ("bad-manifest", "error", OWN, _sealed(lambda m, t: m["layout"].update(head=3)), ADAPTER, "layout"),
    ("bad-manifest", "error", FULL, lambda f: edit(f / EXPORT, labels=3), EXPORT, "labels"),
    (
        "altered-manifest",
        "error",
        OWN,
        lambda f: (f / ADAPTER).write_bytes((f / ADAPTER).read_bytes().replace(b'\\"good\\"', b'\\"gold\\"')),
        ADAPTER,
        "petune_sha256",
    ),
    ("altered-tensor", "error", OWN, _tensors(lambda t: t[folders.OWN_A].add_(1)), ADAPTER, folders.OWN_A),
    ("altered-weights", "error", FULL, lambda f: _flipped(f / "model.safetensors"), "model.safetensors", ""),
    ("altered-export", "error", OWN, lambda f: edit(f / EXPORT, labels=["x", "y"]), EXPORT, "labels"),
    ("altered-export", "error", OWN, lambda f: edit(f / EXPORT, exports={"../x": "0"}), EXPORT, "exports"),
    ("altered-export", "error", OWN, lambda f: edit(f / CONFIG, r=64), CONFIG, ""),
    ("stale-export", "warning", OWN, _sealed(lambda m, t: m.update(seed=4)), EXPORT, "adapter_sha256"),
    ("missing-export", "note", OWN, lambda f: (f / CONFIG).unlink(), CONFIG, ""),
    ("missing-export", "note", OWN, lambda f: (f / EXPORT).unlink(), EXPORT, ""),
    ("missing-tensor", "error", OWN, _tensors(lambda t: t.pop(folders.OWN_A)), ADAPTER, folders.OWN_A),
    ("missing-tensor", "error", OWN, _sealed(lambda m, t: t.pop(folders.OWN_A)), ADAPTER, folders.OWN_A),
    ("missing-tensor", "error", PEFT, _tensors(lambda t: t.pop(B)), ADAPTER, "lora_B"),
    ("foreign-tensor", "error", OWN, _tensors(lambda t: t.update(x=torch.ones(1))), ADAPTER, "x"),
    ("foreign-tensor", "error", OWN, _sealed(lambda m, t: t.update(x=torch.ones(1))), ADAPTER, "x"),
    ("base-weights", "error", PEFT, _tensors(lambda t: t.update({BASE_KEY: torch.ones(8, 8)})), ADAPTER, "base_layer"),
    ("changes-base", "error", PEFT, _peft_field(layer_replication=[[0, 2]]), CONFIG, "layer_replication"),
    ("changes-base", "error", PEFT, _peft_field(init_lora_weights="pissa"), CONFIG, "init_lora_weights"),
    ("changes-base", "error", PEFT, _peft_field(bias="all"), CONFIG, "bias"),
    ("shapes", "error", OWN, _sealed(lambda m, t: m["method"]["knobs"].update(rank=3)), ADAPTER, "layer.0.q"),
    ("shapes", "error", PREFIX, _peft_field(num_layers=3), ADAPTER, "prompt_embeddings"),
    ("not-finite", "error", OWN, _sealed(lambda m, t: t[folders.OWN_A].fill_(NAN)), ADAPTER, folders.OWN_A),
    ("not-finite", "error", PEFT, _tensors(lambda t: t[A].fill_(float("inf"))), ADAPTER, A),
    ("untrained", "warning", OWN, _sealed(lambda m, t: t[folders.OWN_A.replace("A.", "B.")].zero_()), ADAPTER, ""),
    ("untrained", "warning", PEFT, _tensors(lambda t: t[B].zero_()), ADAPTER, ""),
    ("unknown-name", "error", OWN, _sealed(lambda m, t: m["task"].update(name="tsak")), ADAPTER, "task.name"),
    ("bad-knobs", "error", OWN, _sealed(lambda m, t: m["method"]["knobs"].update(drpout=1)), ADAPTER, "method.knobs"),
    ("unknown-field", "error", PEFT, _peft_field(use_dorra=True), CONFIG, "use_dorra"),
    ("unknown-field", "note", PEFT, _peft_field(use_new=False), CONFIG, "use_new"),
    ("expression", "warning", PEFT, _peft_field(target_modules="(.+)+query"), CONFIG, "target_modules"),
    ("unsupported", "error", PEFT, _peft_field(peft_type="PROMPT_TUNING"), CONFIG, ""),
    ("other-format", "error", HUB, lambda f: None, CONFIG, "config"),
    ("pickle", "warning", OWN, lambda f: (f / "optimizer.pt").write_bytes(pickle.dumps({})), "optimizer.pt", ""),
    ("pickle", "warning", OWN, lambda f: (f / "innocent.json").write_bytes(pickle.dumps({})), "innocent.json", ""),
    ("pickle", "warning", OWN, lambda f: torch.save({}, f / "innocent"), "innocent", ""),
    ("pickle", "error", PEFT, lambda f: _only_pickle(f, "adapter_model.bin", ADAPTER), "adapter_model.bin", ""),
    ("pickle", "error", MODEL, lambda f: _only_pickle(f, "pytorch_model.bin", "model.safetensors"), "", ""),
    ("code", "warning", PEFT, lambda f: (f / "modeling.py").write_text("1 / 0"), "modeling.py", ""),
    ("code", "warning", MODEL, lambda f: edit(f / "config.json", auto_map={"A": "b.C"}), "config.json", "auto_map"),
    ("link", "error", OWN, _out, "notes.md", ""),
    ("link", "error", OWN, lambda f: (f / "notes.md").symlink_to(f / "nowhere"), "notes.md", ""),
    ("special-file", "error", OWN, lambda f: os.mkfifo(f / "notes.md"), "notes.md", ""),
    ("mode", "warning", OWN, lambda f: (f / ADAPTER).chmod(0o666), ADAPTER, ""),
    ("mode", "note", OWN, lambda f: (f.chmod(0o755), (f / ADAPTER).chmod(0o600)), ADAPTER, ""),
    ("leftover", "note", OWN, lambda f: (f / ".petune-1-00000000.tmp").touch(), ".petune-1-00000000.tmp", ""),
    ("leftover", "note", RUN, lambda f: (f / "checkpoint-00000002.broken").mkdir(), "checkpoint-00000002.broken", ""),
    ("leftover", "note", RUN, lambda f: (f / ".checkpoint-00000009.tmp").mkdir(), ".checkpoint-00000009.tmp", ""),
    ("damaged-checkpoint", "error", RUN, lambda f: _flipped(f / "checkpoint-00000006" / checkpoint.TENSORS), "", ""),
    ("no-whole-checkpoint", "error", RUN, lambda f: [_cut(p / checkpoint.STATE) for p in f.glob("c*")], "", ""),
    ("refused", "error", PEFT, _peft_field(r=3), ADAPTER, ""),
]
IDS = [f"{kind}-{number}" for number, (kind, *_) in enumerate(CASES)]


def damaged(place: Path, make: Callable[[Path], Path], damage: Damage) -> Path:
    """A good folder after the damage."""
    folder = make(place)
    damage(folder)
    return folder


def found(diagnosis: Diagnosis, kind: str) -> list[Finding]:
    """The findings of a kind, those inside included."""
    return [one for one in diagnosis.all_findings() if one.kind == kind]


@pytest.mark.parametrize(("kind", "severity", "make", "damage", "file", "key"), CASES, ids=IDS)
def test_a_fault_is_found(
    tmp_path: Path,
    kind: str,
    severity: str,
    make: Callable[[Path], Path],
    damage: Damage,
    file: str,
    key: str,
) -> None:
    """It is named with its severity, file and key; text and JSON tell it; nothing worse is invented."""
    diagnosis = diagnose(damaged(tmp_path, make, damage))
    first = next(one for one in found(diagnosis, kind) if one.severity == severity)
    assert file in ("", first.file)
    assert key in first.key
    assert first.cause and kind in str(diagnosis)
    assert diagnosis.ok is (diagnosis.count("error") == 0)
    assert severity == "error" or make is HUB or diagnosis.ok
    assert json.loads(json.dumps(diagnosis.to_dict()))["ok"] is diagnosis.ok


def test_every_kind_has_its_case() -> None:
    """No kind of finding is without a folder that shows it."""
    assert {kind for kind, *_ in CASES} == set(KINDS)


OF_ADAPTERS = [case for case in CASES if case[2] in (OWN, PEFT)]


@pytest.mark.parametrize(
    ("kind", "severity", "make", "damage", "file", "key"), OF_ADAPTERS, ids=[case[0] for case in OF_ADAPTERS]
)
def test_the_doctor_and_the_loader_agree(
    tmp_path: Path,
    kind: str,
    severity: str,
    make: Callable[[Path], Path],
    damage: Damage,
    file: str,
    key: str,
) -> None:
    """What the loader refuses is an error for the doctor: a healthy folder is one that loads."""
    folder = damaged(tmp_path, make, damage)
    healthy = diagnose(folder).ok
    try:
        adapter_file.read(folder)
    except PetuneError:
        assert not healthy
    else:
        assert healthy or kind in ("link", "special-file", "unknown-name", "bad-knobs")


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    """The first fault hides no other one."""
    folder = folders.own(tmp_path)
    retensored(folder, lambda t: (t[folders.OWN_A].fill_(NAN), t.update(x=torch.ones(1))))
    (folder / "training_args.bin").write_bytes(b"\x80\x04N.")
    kinds = {one.kind for one in diagnose(folder).findings}
    assert {"not-finite", "altered-tensor", "foreign-tensor", "pickle", "stale-export"} <= kinds


@pytest.mark.parametrize("cut", range(0, 900, 60))
def test_a_file_cut_anywhere_is_no_crash(tmp_path: Path, cut: int) -> None:
    """Every length gives a diagnosis with an error in it."""
    folder = folders.own(tmp_path)
    (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes()[:cut])
    assert [one.kind for one in diagnose(folder).findings if one.severity == "error"] == ["broken-container"]


@pytest.mark.parametrize("value", [None, 3, "x", [], [1], {}, {"a": 1}, [["a"]], True, 1e300])
@pytest.mark.parametrize("field", ["peft_type", "task_type", "target_modules", "modules_to_save", "r", "rank_pattern"])
def test_odd_values_never_stop_the_doctor(tmp_path: Path, field: str, value: Any) -> None:
    """Any JSON in any field ends in a diagnosis, and what the loader refuses is an error."""
    folder = damaged(tmp_path, folders.peft, _peft_field(**{field: value}))
    healthy = diagnose(folder).ok
    try:
        container.unpack((folder / ADAPTER).read_bytes(), "it")
        adapter_file.read(folder)
    except Exception:  # whatever it stumbles over
        assert not healthy


def test_the_page_tells_every_kind() -> None:
    """The table of docs/doctor.md is that of the source."""
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{kind}` | {means} |" for kind, means in KINDS.items()]


@pytest.mark.parametrize("name", ["model.pkl", "innocent", "train.csv"])
def test_a_file_is_no_folder(tmp_path: Path, name: str) -> None:
    """The folder around it is named in full; a pickle is called one."""
    path = tmp_path / name
    path.write_bytes(b"text,label\n" if name == "train.csv" else pickle.dumps({}))
    (one,) = diagnose(path).findings
    assert (one.kind == "pickle") == (name != "train.csv") and one.file == name
    assert one.fix == f"Pass the folder around it, {tmp_path}"
