"""Checkpoints on disk: whole or invisible, never a pickle, never silently wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from petune.errors import CheckpointError
from petune.storage import checkpoint, sealing
from petune.storage.checkpoint import LATEST, STATE, TENSORS, found, newest, read, tidy, write

STATE_OF_A_RUN = {"step": 3, "rate": 0.1 + 0.2, "nested": {"list": [1, None, "é"]}}


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    """Some of each type."""
    return {"a": torch.full((3, 2), value), "b/steps": torch.tensor(7), "rng": torch.arange(9, dtype=torch.uint8)}


def test_what_is_written_is_read(tmp_path):
    """Tensors come back bit for bit, with their types; the state with its numbers."""
    path = write(tmp_path / "new" / "folder", 3, tensors(1 / 3), STATE_OF_A_RUN, keep_last=2)
    back = read(path)
    assert path.name == "checkpoint-00000003" and back.step == 3 and back.state == STATE_OF_A_RUN
    for name, tensor in tensors(1 / 3).items():
        assert torch.equal(back.tensors[name], tensor) and back.tensors[name].dtype == tensor.dtype
    assert sorted(file.name for file in path.iterdir()) == [STATE, TENSORS]


def test_retention_keeps_the_newest(tmp_path):
    """Only the newest `keep_last` stay, in order of their steps and not of their names."""
    for step in (8, 9, 10, 100_000_000):
        write(tmp_path, step, tensors(), {}, keep_last=2)
    assert [path.name for path in found(tmp_path)] == ["checkpoint-00000010", "checkpoint-100000000"]
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-00000010", "checkpoint-100000000", LATEST]


def test_file_modes_follow_the_umask(tmp_path):
    """A checkpoint is as readable as any other file of the user."""
    before = os.umask(0o022)
    try:
        path = write(tmp_path, 1, tensors(), {}, keep_last=1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o644}


def test_half_written_ones_are_invisible(tmp_path):
    """A temporary folder is never picked up, and the next write removes it."""
    write(tmp_path, 1, tensors(), {}, keep_last=5)
    half = tmp_path / ".checkpoint-00000002.tmp"
    half.mkdir()
    (half / TENSORS).write_bytes(b"half")
    assert newest(tmp_path).step == 1
    write(tmp_path, 2, tensors(), {}, keep_last=5)
    assert newest(tmp_path).step == 2 and not half.exists()


def test_what_a_killed_writer_has_begun_is_ended(tmp_path):
    """A writer that was killed after its commit: temporary files go, and the checkpoints that it would have dropped."""
    for step in (1, 2):
        write(tmp_path, step, tensors(), {}, keep_last=2)
    for name in (".checkpoint-00000003.tmp", ".checkpoint-00000001.old.tmp"):
        (tmp_path / name).mkdir()
    tidy(tmp_path, keep_last=1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-00000002", LATEST]


@pytest.mark.parametrize("odd", ["file", "link", "link to nowhere"])
def test_odd_things_under_temporary_names_hinder_nobody(tmp_path, odd):
    """A file or a link where a folder was expected is unlinked; what a link leads to stays."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    for name in (".checkpoint-00000001.tmp", ".checkpoint-00000009.old.tmp"):
        if odd == "file":
            (tmp_path / name).touch()
        else:
            (tmp_path / name).symlink_to(elsewhere if odd == "link" else tmp_path / "nowhere")
    for step in (1, 2):
        write(tmp_path, step, tensors(), {}, keep_last=1)
    assert [path.name for path in found(tmp_path)] == ["checkpoint-00000002"]
    assert not list(tmp_path.glob(".*")) and (elsewhere / "mine").exists()


def test_a_checkpoint_that_is_a_link_is_retired_as_one(tmp_path):
    """Moved to another disk, with a link in its place: it is read, and later only the link goes."""
    moved = write(tmp_path, 1, tensors(), {}, keep_last=1).rename(tmp_path / "moved")
    (tmp_path / "checkpoint-00000001").symlink_to(moved)
    assert newest(tmp_path).step == 1
    for step in (2, 3):
        write(tmp_path, step, tensors(), {}, keep_last=1)
    assert [path.name for path in found(tmp_path)] == ["checkpoint-00000003"] and read(moved).step == 1


def test_nothing_there_is_none(tmp_path):
    """A missing or empty folder has no checkpoint; that is no error here."""
    assert newest(tmp_path / "missing") is None and newest(tmp_path) is None


DAMAGES = {
    "missing tensors": lambda path: (path / TENSORS).unlink(),
    "missing state": lambda path: (path / STATE).unlink(),
    "empty tensors": lambda path: (path / TENSORS).write_bytes(b""),
    "empty state": lambda path: (path / STATE).write_bytes(b""),
    "half tensors": lambda path: _cut(path / TENSORS),
    "half state": lambda path: _cut(path / STATE),
    "a flipped bit in the tensors": lambda path: _flip(path / TENSORS),
    "a flipped bit in the state": lambda path: _flip(path / STATE),
    "a list for a state": lambda path: (path / STATE).write_text("[1]"),
    "a folder for a file": lambda path: ((path / TENSORS).unlink(), (path / TENSORS).mkdir()),
    "another run's tensors": lambda path: _exchange(path),
    "a pipe for the tensors": lambda path: ((path / TENSORS).unlink(), os.mkfifo(path / TENSORS)),
    "a pipe for the state": lambda path: ((path / STATE).unlink(), os.mkfifo(path / STATE)),
    "a terabyte of holes": lambda path: os.truncate(path / TENSORS, 2**40),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def _exchange(path: Path) -> None:
    other = write(path.parent / "other", 2, tensors(5.0), {}, keep_last=1)
    (other / TENSORS).replace(path / TENSORS)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_passed_over(tmp_path, damage):
    """Each damage is an error that names the file; the newest whole one is taken with a warning."""
    write(tmp_path, 1, tensors(), {}, keep_last=5)
    path = write(tmp_path, 2, tensors(2.0), {}, keep_last=5)
    DAMAGES[damage](path)
    with pytest.raises(CheckpointError, match=str(path)):
        read(path)
    with pytest.warns(RuntimeWarning, match=str(path)):
        assert newest(tmp_path).step == 1


def test_every_byte_of_the_state_counts(tmp_path):
    """No flipped byte of `state.json` gives another state in silence."""
    path = write(tmp_path, 2, {"a": torch.ones(1)}, {"step": 2, "rates": [0.1, 0.2], "word": "é"}, keep_last=1)
    content = (path / STATE).read_bytes()
    good = read(path)
    for index in range(len(content)):
        for bit in (1, 2, 16):
            (path / STATE).write_bytes(content[:index] + bytes([content[index] ^ bit]) + content[index + 1 :])
            try:
                changed = read(path)
            except CheckpointError:
                continue
            assert changed.state == good.state and changed.step == good.step


def test_only_damaged_ones_are_an_error(tmp_path):
    """With no whole checkpoint left the run does not start afresh in silence."""
    path = write(tmp_path, 1, tensors(), {}, keep_last=1)
    _cut(path / STATE)
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match="None of the 1 checkpoints"):
        newest(tmp_path)


def test_a_newer_schema_is_refused(tmp_path):
    """A checkpoint of a later petune is refused by its schema, not by chance."""
    path = write(tmp_path, 1, tensors(), {}, keep_last=1)
    outer = json.loads((path / STATE).read_text())
    outer["header"]["schema"] = 99
    (path / STATE).write_text(json.dumps(outer))
    with pytest.raises(CheckpointError, match="schema 99"):
        read(path)


def test_a_newer_schema_is_not_passed_over(tmp_path, monkeypatch):
    """A whole checkpoint of a later petune is no damage: an older one is not taken in its place."""
    write(tmp_path, 1, tensors(), {}, keep_last=2)
    monkeypatch.setattr(sealing, "SCHEMA", 2)
    write(tmp_path, 2, tensors(), {}, keep_last=2)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="schema 2"):
        newest(tmp_path, set_aside=True)
    assert len(found(tmp_path)) == 2


def test_a_damaged_one_can_be_written_again(tmp_path):
    """A step that is written anew is another folder: what is there is never changed, and goes by retention."""
    write(tmp_path, 1, tensors(), {}, keep_last=5)
    _cut(write(tmp_path, 2, tensors(), {}, keep_last=5) / TENSORS)
    assert write(tmp_path, 2, tensors(4.0), {}, keep_last=2).name == "checkpoint-00000002-2"
    assert float(newest(tmp_path).tensors["a"][0, 0]) == 4.0
    write(tmp_path, 3, tensors(), {}, keep_last=2)
    assert [path.name for path in found(tmp_path)] == ["checkpoint-00000002-2", "checkpoint-00000003"]


def test_a_damaged_one_is_set_aside_and_told_once(tmp_path):
    """The folder's writer renames it, so the next look says nothing; with no whole one left nothing is renamed."""
    for step in (1, 2, 3):
        write(tmp_path, step, tensors(), {}, keep_last=5)
    for step in (2, 3):
        _cut(tmp_path / f"checkpoint-0000000{step}" / STATE)
    with pytest.warns(
        RuntimeWarning, match=r"checkpoint-0000000[23]/state.json.*It is now checkpoint-.*\.broken"
    ) as told:
        assert newest(tmp_path, set_aside=True).step == 1
    assert len(told) == 2
    assert newest(tmp_path).step == 1
    assert sum(name.endswith(".broken") for name in os.listdir(tmp_path)) == 2
    _cut(tmp_path / "checkpoint-00000001" / STATE)
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match="None of the 1"):
        newest(tmp_path, set_aside=True)
    assert [path.name for path in found(tmp_path)] == ["checkpoint-00000001"]


def test_a_newest_one_that_has_gone_is_told(tmp_path):
    """`latest` remembers which was the newest: without it the one before is taken, or none, and that is said."""
    for step in (1, 2):
        write(tmp_path, step, tensors(), {}, keep_last=5)
    shutil.rmtree(tmp_path / "checkpoint-00000002")
    with pytest.warns(RuntimeWarning, match="names checkpoint-00000002, .*checkpoint-00000001 is taken"):
        assert newest(tmp_path).step == 1
    shutil.rmtree(tmp_path / "checkpoint-00000001")
    with pytest.warns(RuntimeWarning, match="the run starts afresh"):
        assert newest(tmp_path) is None
    (tmp_path / LATEST).write_text("{}")
    with pytest.warns(RuntimeWarning, match="latest is damaged"):
        assert newest(tmp_path) is None


def test_what_does_not_read_back_replaces_nothing(tmp_path, monkeypatch):
    """A disk that gives back other bytes than it took: the older checkpoint stays, and the error says so."""
    write(tmp_path, 1, tensors(), {}, keep_last=1)
    stage = checkpoint.stage

    def lossy(path, data):
        stage(path, data[:-1] + b"?" if path.name == TENSORS else data)

    monkeypatch.setattr(checkpoint, "stage", lossy)
    with pytest.raises(CheckpointError, match=r"checkpoint-00000002\.broken/state\.safetensors does not read back"):
        write(tmp_path, 2, tensors(), {}, keep_last=1)
    assert [path.name for path in found(tmp_path)] == ["checkpoint-00000001"]


def test_what_is_not_confirmed_replaces_nothing(tmp_path, monkeypatch):
    """As long as the disk does not confirm the new name the older checkpoints stay."""
    write(tmp_path, 1, tensors(), {}, keep_last=1)

    def refuse(folder):
        if folder == tmp_path:
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(checkpoint, "sync_folder", refuse)
    with pytest.warns(UserWarning, match="checkpoint-00000002 is written, but the disk did not confirm it"):
        write(tmp_path, 2, tensors(), {}, keep_last=1)
    assert len(found(tmp_path)) == 2


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_failing_disk_leaves_the_older_ones(tmp_path, monkeypatch, call):
    """Whichever call fails first, the error is clear, the older checkpoint is whole and nothing half is left."""
    write(tmp_path, 1, tensors(), {}, keep_last=1)

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if call == "fsync" else (Path, call)), full)
        with pytest.raises(CheckpointError, match="No space left"):
            write(tmp_path, 2, tensors(), {}, keep_last=1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-00000001", LATEST] and newest(tmp_path).step == 1


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    """No file begins with a pickle's or a zip's first bytes."""
    path = write(tmp_path, 1, tensors(), STATE_OF_A_RUN, keep_last=1)
    for file in path.iterdir():
        assert file.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")
    assert "pickle" not in Path(checkpoint.__file__).read_text().replace("is a pickle", "")
