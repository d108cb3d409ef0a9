"""Saving over what is there: what may be removed, and what may not hold a save up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from petune.storage import adapter_file
from petune.storage.adapter_file import read, write
from tests import tiny
from tests.storage import making

STRANGE = [b'{"exports": null}', b'{"exports": 5}', b"[1]", b'{"exports": [1]}', b"\xff"]


@pytest.mark.parametrize("text", [*STRANGE, b'{"exports": {"notes.txt": null, "a\\u0000b": null}}'])
def test_a_strange_list_of_exports_removes_nothing(tmp_path: Path, text: bytes) -> None:
    """It counts as no list; only names that petune writes are ever removed."""
    folder = write(tmp_path, making.small())
    (folder / "petune.json").write_bytes(text)
    (folder / "notes.txt").write_text("mine", "utf-8")
    write(folder, making.small())
    assert (folder / "notes.txt").read_text("utf-8") == "mine" and read(folder).notices == ()


def test_what_an_earlier_adapter_had_is_removed(tmp_path: Path) -> None:
    """A tokenizer of the old adapter must not be taken for one of the new."""
    write(tmp_path, making.small(), tokenizer=tiny.tokenizer(), history=[{"loss": 1.0}])
    write(tmp_path, making.small())
    assert not (tmp_path / "tokenizer.json").exists() and not (tmp_path / "history.jsonl").exists()


def test_a_pipe_in_the_place_of_an_export_does_not_hang_a_save(tmp_path: Path) -> None:
    """It lists nothing, and the new file takes its place."""
    folder = write(tmp_path, making.small())
    (folder / "petune.json").unlink()
    os.mkfifo(folder / "petune.json")
    write(folder, making.small())
    assert (folder / "petune.json").is_file() and read(folder).notices == ()


def test_every_name_that_a_tokenizer_is_saved_under_is_known(tmp_path: Path) -> None:
    """Those of the tests' tokenizer, at least."""
    tiny.tokenizer().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= adapter_file.WRITTEN


def test_the_readme_of_a_folder_that_was_there_before_stays(tmp_path: Path) -> None:
    """At the first save and at later ones; a card of petune's own, or of peft's, is written anew."""
    (tmp_path / "README.md").write_text("my notes", "utf-8")
    for _ in range(2):
        assert read(write(tmp_path, making.small())).notices == ()
        assert (tmp_path / "README.md").read_text("utf-8") == "my notes"
    (tmp_path / "README.md").unlink()
    for card in ("first", "second"):
        write(tmp_path, making.small(), card=card)
        assert (tmp_path / "README.md").read_text("utf-8") == card
    (tmp_path / "petune.json").unlink()  # as peft leaves a folder
    write(tmp_path, making.small(), card="third")
    assert (tmp_path / "README.md").read_text("utf-8") == "third"
