"""What is refused before it is built, and what is read once: the shelf of a model with many adapters."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import peft
import pytest

from petune.errors import AdapterError, AdapterFileError
from petune.methods.base import as_method
from petune.methods.peft import Peft
from petune.model.adapter import Adapter
from petune.storage import adapter_file, manifest, shelf
from petune.storage.packing import pack
from tests.conformance.subjects import open_backbone, task
from tests.storage.stocking import backbone, made, store, write


def long_tail(folder: Path) -> Path:
    """The folder of a method from peft."""
    home, recipe = open_backbone("bert"), as_method(peft.IA3Config(target_modules=["key"], feedforward_modules=[]))
    adapter = Adapter.make(home, "theirs", recipe, task("single"))
    try:
        return adapter_file.write(folder, pack(adapter, None))
    finally:
        adapter.body.detach()


def test_a_store_refuses_a_method_from_peft_by_its_manifest(tmp_path, monkeypatch):
    """Nothing is put into the backbone for it: the class of its method says enough."""
    long_tail(tmp_path / "theirs")
    write(tmp_path / "ours", 0)

    def built(*given: object, **knobs: object) -> None:
        raise AssertionError("it was built")

    shop = store(tmp_path)
    monkeypatch.setattr(Peft, "inject", built)
    brought = shop.bring(["theirs", "ours"])
    assert brought.names == ("ours",)
    with pytest.raises(AdapterError, match=r"'theirs' is a method from peft.*beside others"):
        raise brought.failures["theirs"]


def test_only_who_shows_a_history_reads_it(tmp_path, monkeypatch):
    """A Tuner does; for one of many adapters on one backbone the file is left alone."""
    folder = write(tmp_path / "a", 0)
    (folder / "history.jsonl").write_text('{"loss": 1.0}\n', "utf-8")
    assert shelf.take(folder, backbone()).history == [{"loss": 1.0}]
    monkeypatch.setattr(shelf, "_history", None)
    assert shelf.take(folder, backbone(), share=True).history == []


def test_versions_are_looked_up_once(monkeypatch):
    """A process runs with what it began with, and each look reads files."""
    manifest.versions(), manifest.petune_version()
    monkeypatch.setattr(metadata, "version", None)
    found = manifest.versions()
    assert found["torch"] == manifest.versions()["torch"]
    found["torch"] = "changed by whoever got it"
    assert manifest.versions()["torch"] != found["torch"]


def test_an_adapter_that_does_not_say_where_it_is_from(tmp_path):
    """The error of a wrong backbone names the recorded one, or says in words which is meant; never `None`."""
    adapter = made("a", 0)
    stored = pack(adapter, None)
    stored.manifest["backbone"] |= {"path_or_id": None, "model_type": "gpt2"}
    folder = adapter_file.write(tmp_path / "a", stored)
    with pytest.raises(AdapterFileError) as caught:
        shelf.take(folder, backbone())
    assert "None" not in str(caught.value)
    assert "the backbone that it was trained on" in caught.value.fix


def test_rows_of_a_history_that_are_none_are_passed_over(tmp_path):
    """Nested without end, no objects, no UTF-8: the history is for people."""
    folder = write(tmp_path / "a", 0)
    rows = [b"[" * 200_000, b"3", b"\xff", b'{"loss": 1.0}', b""]
    (folder / "history.jsonl").write_bytes(b"\n".join(rows))
    assert shelf.take(folder, backbone()).history == [{"loss": 1.0}]


def test_a_history_without_end_is_refused(tmp_path, monkeypatch):
    """A hole of many gigabytes is not read into memory."""
    folder = write(tmp_path / "a", 0)
    with (folder / "history.jsonl").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(AdapterFileError, match=r"history.jsonl has \d+ bytes.*At most"):
        shelf.take(folder, backbone())


def test_a_path_with_nul_is_an_error_of_petunes():
    """On the way in; atomic's tests have the way out."""
    with pytest.raises(AdapterFileError, match="There is no folder a"):
        shelf.take("a\0b", backbone())


def test_a_tokenizer_that_panics_is_an_error_of_petunes(tmp_path, monkeypatch):
    """What Rust raises is no Exception; an interrupt stays what it is."""
    folder = write(tmp_path / "a", 0)
    (folder / "tokenizer_config.json").write_text("{}", "utf-8")

    def raising(kind):
        def fail(*given):
            raise kind("unexpected")

        monkeypatch.setattr(shelf, "from_files", fail)
        return shelf.take(folder, backbone())

    with pytest.raises(AdapterFileError, match=r"tokenizer.*cannot be read: unexpected"):
        raising(type("PanicException", (BaseException,), {}))
    with pytest.raises(KeyboardInterrupt):
        raising(KeyboardInterrupt)
