"""Folders that want to do harm: nothing in them runs, nothing hangs, nothing steers the terminal, nothing changes."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from petune.doctor import diagnose
from petune.doctor.diagnosis import WIDTH
from petune.doctor.expressions import danger
from tests.doctor import folders
from tests.doctor.folders import ADAPTER, CONFIG, edit, resealed

SECONDS = 60


class Payload:
    """A pickle of this writes a file when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def _zipped(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)


PLACES = [
    "adapter_model.bin", "pytorch_model.bin", "pytorch_adapter.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt",
    "training_args.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl", ADAPTER, CONFIG, "petune.json",
    "config.json", "state.json", "state.safetensors", "model.safetensors", "README.md", "history.jsonl",
    "tokenizer_config.json", "innocent",
]  # fmt: skip
"""Names under which a payload may lie."""


@pytest.mark.parametrize(
    "make", [folders.own, folders.peft, folders.model, folders.run], ids=lambda make: make.__name__
)
def test_a_pickle_never_runs(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Plain or as torch's archive, under every name that anybody reads: the marker is never written."""
    marker = tmp_path / "it-ran"
    content = pickle.dumps(Payload(marker))
    for number, name in enumerate(PLACES):
        for form in (Path.write_bytes, _zipped):
            folder = make(tmp_path / f"{number}-{form.__name__}")
            form(folder / name, content)
            diagnosis = diagnose(folder)
            assert not marker.exists(), name
            assert name in str(diagnosis), name
    pickle.loads(content)
    assert marker.exists()  # the payload is a real one


def test_code_beside_an_adapter_never_runs(tmp_path: Path) -> None:
    """Modules that a configuration names are not imported, whatever the field."""
    folder, marker = folders.peft(tmp_path), tmp_path / "it-ran"
    (folder / "modeling.py").write_text(f"open({str(marker)!r}, 'w')\nclass Net: pass\n")
    parent = {"base_model_class": "Net", "parent_library": "modeling"}
    edit(folder / CONFIG, auto_mapping=parent, auto_map={"AutoModel": "modeling.Net"})
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["modeling.Net", None]}}))
    diagnosis = diagnose(folder)
    assert not marker.exists() and "modeling" not in sys.modules
    assert {one.file for one in diagnosis.findings if one.kind == "code"} >= {"modeling.py", "tokenizer_config.json"}


def test_a_class_named_by_a_manifest_is_not_imported(tmp_path: Path) -> None:
    """`module:Class` as a method or task imports nothing."""
    folder = folders.own(tmp_path)
    resealed(folder, lambda made, tensors: made["method"].update(name="antigravity:Fly"))
    diagnosis = diagnose(folder)
    assert "unknown-name" in {one.kind for one in diagnosis.findings} and "antigravity" not in sys.modules


def test_pipes_do_not_hang(tmp_path: Path) -> None:
    """A FIFO in place of any file ends in a diagnosis at once."""
    for number, name in enumerate(PLACES):
        folder = folders.own(tmp_path / str(number))
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        code = f"from petune.doctor import diagnose; print(diagnose({str(folder)!r}).ok)"
        if number:  # one in a process of its own with a limit shows that the rest may be done here
            assert not diagnose(folder).ok
            continue
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
        assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("name", ["model.safetensors", "model-1.safetensors"])
def test_a_pipe_among_a_models_weights_does_not_hang(tmp_path: Path, name: str) -> None:
    """The weights themselves, and a shard that an index may name."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    os.mkfifo(tmp_path / name)
    code = f"from petune.doctor import diagnose; print(diagnose({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert "is no regular file" in done.stdout, done.stderr


@pytest.mark.parametrize("card", ["---" + "\n" * 8180, "---" + "\n \n" * 2700, "---\nlicense:" + " " * 8000])
def test_a_card_without_a_licence_is_no_long_wait(tmp_path: Path, card: str) -> None:
    """Its first lines are looked through once."""
    folder = folders.own(tmp_path)
    (folder / "README.md").write_text(card)
    began = time.process_time()
    assert "license" not in diagnose(folder).facts
    assert time.process_time() - began < 2


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(.*)*x", ".*.*.*.*.*x", "(?:a?){30}a{30}", r"(a*)\1", "("])
def test_expressions_are_judged_unrun(pattern: str) -> None:
    """Nested repeats, choices in repeats, rows of open repeats, references: known by their shape."""
    assert danger(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "query",
        r".*\.layers\.(\d+)\.(self_attn|mlp)\.(q|v)_proj",
        r"^(?!.*visual).*(?:q_proj|v_proj).*",
        r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:k_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp)",
    ],
)
def test_expressions_of_real_adapters_pass(pattern: str) -> None:
    """What people write to choose modules is no danger."""
    assert danger(pattern) is None


def test_nothing_steers_the_terminal(tmp_path: Path) -> None:
    """Escape sequences and line breaks in names and values come out as visible text, at most 80 columns wide."""
    folder = folders.peft(tmp_path)
    edit(
        folder / CONFIG,
        peft_version="\x1b[2J\u202e",
        base_model_name_or_path="a\nb" + "word " * 60,
        bias="\x1b]0;x\x07",
    )
    (folder / "\x1b[31mred.pkl").touch()
    text = str(diagnose(folder))
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31mred.pkl" in text
    others = [line for line in text.splitlines() if str(tmp_path) not in line]
    assert max(map(len, others)) <= WIDTH


def test_nothing_is_changed(tmp_path: Path) -> None:
    """Not a byte, a name or a time of the folder is another one afterwards."""
    folder = folders.store(tmp_path)
    (folder / "own" / ".petune-1-00000000.tmp").touch()

    def state() -> list[tuple[str, int, str]]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [(str(p), p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]

    before = state()
    diagnose(folder)
    assert state() == before


def test_the_backbone_is_left_alone(tmp_path: Path) -> None:
    """What an adapter names as its backbone is not opened: not even when it lies there."""
    folder = folders.peft(tmp_path)
    trap = tmp_path / "trap"
    trap.mkdir()
    os.mkfifo(trap / "config.json")
    edit(folder / CONFIG, base_model_name_or_path=str(trap))
    code = f"from petune.doctor import diagnose; print(diagnose({str(folder)!r}).ok)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert done.stdout.strip() == "True", done.stderr
