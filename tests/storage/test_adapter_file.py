"""The adapter folder: exact round trips, one commit, and exports that cannot lie in silence."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.errors import AdapterFileError
from petune.storage import adapter_file, atomic, layout, manifest
from petune.storage.adapter_file import read, write
from petune.storage.stored import Stored
from tests import tiny
from tests.storage import making

ADAPTER = "adapter_model.safetensors"


def _other(seed: int = 1) -> Stored:
    """The small adapter with other values and another name."""
    torch.manual_seed(seed)
    small = making.small()
    layers = {
        path: {name: torch.randn(t.shape).to(t.dtype) for name, t in pair.items()}
        for path, pair in small.layers.items()
    }
    knobs = {**small.manifest["method"]["knobs"], "dropout": 0.3}
    manifest = {**small.manifest, "name": f"other {seed}", "method": {"name": "lora", "knobs": knobs}}
    return Stored(manifest, layers, small.head)


def _same(one: Stored, two: Stored) -> bool:
    def flat(stored: Stored) -> dict[str, Any]:
        layers = {f"{path} {name}": t for path, pair in stored.layers.items() for name, t in pair.items()}
        return {**layers, **stored.head}

    a, b = flat(one), flat(two)
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a
    )


def test_comes_back_to_the_bit(tmp_path: Path) -> None:
    """Dtypes, shapes and bits of every tensor, the empty ones of rank 0 included, and the manifest."""
    folder = write(tmp_path / "deep" / "adapter", making.small())
    again = read(folder)
    assert _same(again, making.small()) and again.notices == ()
    assert {**again.manifest, "digests": {}, "layout": {}} == making.small().manifest
    assert (
        write(tmp_path / "twice", again)
        and (tmp_path / "twice" / ADAPTER).read_bytes() == (folder / ADAPTER).read_bytes()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_comes_back_with_its_odd_values(tmp_path: Path, dtype: torch.dtype) -> None:
    """Negative zero, subnormal and the largest numbers that are let in."""
    info = torch.finfo(dtype)
    large = min(info.max, 9e17)
    odd = torch.tensor([[-0.0, large, -large, info.smallest_normal / 2]], dtype=dtype).repeat(2, 1)
    small = making.small()
    adapter = Stored(small.manifest, small.layers, {"classifier.weight": odd, "classifier.steps": torch.tensor(3)})
    again = read(write(tmp_path, adapter))
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(again.head["classifier.weight"].view(bits), odd.view(bits))
    assert again.head["classifier.steps"].shape == ()


def test_views_and_strides_are_written_by_value(tmp_path: Path) -> None:
    """Slices of one stack, and transposed tensors: only their own numbers go to disk."""
    stack = torch.randn(100, 4, 4)
    small = making.small()
    adapter = Stored(small.manifest, small.layers, {"classifier.a": stack[1].T, "classifier.b": stack[1]})
    folder = write(tmp_path, adapter)
    assert _same(read(folder), adapter) and (folder / ADAPTER).stat().st_size < 6_000


def test_loaded_tensors_are_private(tmp_path: Path) -> None:
    """Whatever happens to the file later, what was loaded stays, and can be written to."""
    folder = write(tmp_path, making.small())
    again = read(folder)
    (folder / ADAPTER).write_bytes(b"")
    assert _same(again, making.small())
    again.head["classifier.bias"].add_(1)


def test_the_exports_are_there(tmp_path: Path) -> None:
    """petune.json, adapter_config.json, README.md, history.jsonl and the tokenizer's files."""
    folder = write(tmp_path / "a", making.small(), tokenizer=tiny.tokenizer(), history=[{"loss": 1.0}, {"loss": 0.5}])
    about = json.loads((folder / "petune.json").read_text())
    assert {"README.md", "history.jsonl", "adapter_config.json", "tokenizer.json"} <= set(about["exports"])
    assert about["labels"] == ["bad", "good"] and about["method"] == read(folder).manifest["method"]
    assert (folder / "history.jsonl").read_text() == '{"loss": 1.0}\n{"loss": 0.5}\n'
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_an_export_of_an_earlier_adapter_goes(tmp_path: Path) -> None:
    """A bottleneck saved over a LoRA leaves no adapter_config.json for peft to misread; foreign files stay."""
    folder = write(tmp_path, making.small())
    (folder / "mine.txt").write_text("keep")
    manifest = {**making.small().manifest, "method": {"name": "bottleneck", "knobs": {"width": 2}}}
    write(folder, Stored(manifest, {"layer.0": making.bottleneck(2)}, {}))
    assert not (folder / "adapter_config.json").exists() and (folder / "mine.txt").exists()
    assert read(folder).notices == ()


def test_stale_exports_are_one_notice(tmp_path: Path) -> None:
    """Exports of another adapter file: the adapter file decides, and it is said once; a save repairs it."""
    folder, other = write(tmp_path / "a", making.small()), write(tmp_path / "b", _other())
    (folder / ADAPTER).write_bytes((other / ADAPTER).read_bytes())
    again = read(folder)
    assert again.manifest["name"] == "other 1" and len(again.notices) == 1 and "another one" in again.notices[0]
    write(folder, again)
    assert read(folder).notices == ()


@pytest.mark.parametrize("name", ["petune.json", "adapter_config.json", "tokenizer.json"])
def test_an_export_with_other_content_is_an_error(tmp_path: Path, name: str) -> None:
    """It claims to be made from this adapter file, but says something else."""
    folder = write(tmp_path, making.small(), tokenizer=tiny.tokenizer())
    path = folder / name
    path.write_text(path.read_text().replace("true", "false", 1).replace('"good"', '"gold"'))
    with pytest.raises(AdapterFileError, match=rf"{name} says it was made from"):
        read(folder)


def test_people_may_edit_the_card_and_missing_exports_are_a_notice(tmp_path: Path) -> None:
    """README.md is for people; a file that is gone is named."""
    folder = write(tmp_path, making.small())
    (folder / "README.md").write_text("mine")
    assert read(folder).notices == ()
    (folder / "adapter_config.json").unlink()
    assert "lacks adapter_config.json" in read(folder).notices[0]
    (folder / "petune.json").unlink()
    assert "petune.json is missing" in read(folder).notices[0]


def test_petune_json_cannot_point_out_of_the_folder(tmp_path: Path) -> None:
    """A listed name with a path in it is an error, and is never opened or removed."""
    folder = write(tmp_path / "a", making.small())
    (tmp_path / "victim").write_text("x")
    about = json.loads((folder / "petune.json").read_text())
    about["exports"]["../victim"] = "0"
    (folder / "petune.json").write_text(json.dumps(about))
    with pytest.raises(AdapterFileError, match="outside of the folder"):
        read(folder)
    write(folder, _other())
    assert (tmp_path / "victim").exists()


def test_non_finite_numbers_are_neither_written_nor_read(tmp_path: Path) -> None:
    """The tensor is named, and the good adapter that was there stays."""
    folder = write(tmp_path, making.small())
    bad = {**making.small().head, "classifier.bias": torch.tensor([1.0, float("nan")])}
    with pytest.raises(AdapterFileError, match=r"'classifier.bias' has 1 of 2 values"):
        write(folder, Stored(making.small().manifest, making.small().layers, bad))
    assert _same(read(folder), making.small())


def test_a_value_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A NaN metric names its key; the folder is not even made."""
    manifest = {**making.small().manifest, "metrics": {"f1": float("nan")}}
    with pytest.raises(AdapterFileError, match=r"metrics\.f1"):
        write(tmp_path / "new", Stored(manifest, making.small().layers, making.small().head))
    assert not (tmp_path / "new").exists()


def test_an_untrained_adapter_is_remarked(tmp_path: Path) -> None:
    """All lora_B zero: it loads, and a notice says that it changes nothing."""
    small = making.small()
    layers = {path: {**pair, "lora_B": torch.zeros_like(pair["lora_B"])} for path, pair in small.layers.items()}
    again = read(write(tmp_path, Stored(small.manifest, layers, small.head)))
    assert again.manifest["untrained"] and "untrained" in again.notices[0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_failed_save_leaves_the_old_adapter_and_its_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A full disk while staging changes no file of the folder."""
    folder = write(tmp_path, making.small())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real, calls = os.fsync, []

    def fail_later(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(atomic.os, "fsync", fail_later)
    with pytest.raises(AdapterFileError, match=f"errno {code}"):
        write(folder, _other())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_adapter_file_is_renamed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before any rename, a folder holds the whole old or the whole new adapter, never an error."""
    real = os.replace
    count = len(adapter_file._exports(making.small(), None, None, "")) + 2
    for stop in range(count + 1):
        folder = write(tmp_path / str(stop), making.small())
        done: list[str] = []

        def replace(source: Path, target: Path, done: list[str] = done, stop: int = stop) -> None:
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(Path(target).name)
            real(source, target)

        monkeypatch.setattr(atomic.os, "replace", replace)
        with contextlib.suppress(KeyboardInterrupt):
            write(folder, _other())
        monkeypatch.undo()
        assert _same(read(folder), _other() if stop == count else making.small())
        assert (ADAPTER in done) == (stop == count)


KILLS = """
import os, signal, sys, time
from pathlib import Path
from petune.storage.adapter_file import read, write
from tests.storage import making
from tests.storage.test_adapter_file import _other, _same

folder, both = Path(sys.argv[1]), [making.small(), _other()]
write(folder, both[0])
for i in range(40):
    child = os.fork()
    while not child:
        for one in both:
            write(folder, one)
    time.sleep(0.002 + 0.0011 * i)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert any(_same(read(folder), one) for one in both), i
write(folder, both[0])
assert not list(folder.glob(".petune-*"))
"""


def test_killed_while_saving(tmp_path: Path) -> None:
    """kill -9 at forty moments of a loop of saves: what is there is one of the two adapters, whole."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_readers_beside_a_writer_get_one_whole_adapter(tmp_path: Path) -> None:
    """Loads while another thread saves two adapters in turn: each is one of the two, none is an error."""
    both = [making.small(), _other()]
    folder, stop = write(tmp_path, both[0]), threading.Event()

    def keep_writing() -> None:
        while not stop.is_set():
            for one in both:
                write(folder, one)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        for _ in range(150):
            again = read(folder)
            assert _same(again, both[again.manifest["name"] != "small"])
    finally:
        stop.set()
        writer.join()


def test_two_tensors_of_one_name_are_refused() -> None:
    """A site and a head that would share a name in the file."""
    small = making.small()
    head = {"bert.layer.0.q.lora_A.weight": torch.ones(1)}
    with pytest.raises(AdapterFileError, match="same name"):
        layout.flatten(Stored(small.manifest, small.layers, head), {})


def test_a_figure_that_is_not_finite_is_null(tmp_path: Path) -> None:
    """An undefined figure keeps no healthy adapter from being saved; manifest, export and history have null."""
    small = making.small()
    told = manifest.build(**{**_built(small.manifest), "metrics": {"f1": math.nan, "loss": 0.5}})
    folder = write(tmp_path, Stored(told, small.layers, small.head), history=[{"eval_f1": math.inf, "step": 1}])
    assert read(folder).manifest["metrics"] == {"f1": None, "loss": 0.5}
    assert json.loads((folder / "petune.json").read_text())["metrics"]["f1"] is None
    assert (folder / "history.jsonl").read_text() == '{"eval_f1": null, "step": 1}\n'
    assert "loss" in (folder / "README.md").read_text()


def _built(made: dict[str, Any]) -> dict[str, Any]:
    """What `manifest.build` takes, of a manifest."""
    return {key: value for key, value in made.items() if key in ("name", "task", "labels", "method", "backbone")}
