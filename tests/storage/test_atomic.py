"""Writes are whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from petune.errors import AdapterFileError
from petune.storage import atomic


def test_replaces_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The new bytes are there, no temporary file is, and the mode follows the umask."""
    old = os.umask(0o027)
    try:
        atomic.write_file(tmp_path / "a", b"old")
        atomic.write_file(tmp_path / "a", b"new")
    finally:
        os.umask(old)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """Whichever system call fails: the error names path and errno, the old bytes stay, nothing is left behind."""
    atomic.write_file(tmp_path / "a", b"old")

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(AdapterFileError, match=rf"a could not be written \({errno.errorcode[code]}.*errno {code}"):
        atomic.write_file(tmp_path / "a", b"new")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_several_files_are_staged_before_the_first_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up at the second file changes neither."""
    atomic.write_files(tmp_path, {"a": b"old", "b": b"old"})
    synced: list[int] = []

    def sync(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(atomic.os, "fsync", sync)
    with pytest.raises(AdapterFileError, match="b could not be written"):
        atomic.write_files(tmp_path, {"a": b"new", "b": b"new"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"old"


def test_a_late_failure_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the rename the file is saved; that the folder could not be synced is only said."""

    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(atomic, "sync_folder", fail)
    with pytest.warns(UserWarning, match="EIO"):
        atomic.write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    """What a link points to (a blob store) is never written through it."""
    (tmp_path / "blob").write_bytes(b"blob")
    (tmp_path / "a").symlink_to(tmp_path / "blob")
    atomic.write_file(tmp_path / "a", b"new")
    assert (tmp_path / "blob").read_bytes() == b"blob" and not (tmp_path / "a").is_symlink()


def test_sweep_takes_dead_writers_files_only(tmp_path: Path) -> None:
    """Temporary files of a process that is gone go; those of a living one, and other files, stay."""
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    dead = f".petune-{gone.stdout.strip()}-00000000.tmp"
    names = [dead, f".petune-{os.getpid()}-00000000.tmp", ".petune-x.tmp", "kept"]
    for name in names:
        (tmp_path / name).touch()
    atomic.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_a_second_writer_gets_a_clear_error(tmp_path: Path) -> None:
    """One folder has one writer, and is free again afterwards."""
    caught: list[BaseException] = []

    def second() -> None:
        try:
            with atomic.only_writer(tmp_path):
                pass
        except AdapterFileError as error:
            caught.append(error)

    with atomic.only_writer(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(caught) == 1 and "is writing to" in str(caught[0])
    second()
    assert len(caught) == 1


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    """The error says that a folder is wanted."""
    (tmp_path / "a").touch()
    for place in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(AdapterFileError, match="not a file"):
            atomic.make_folder(place)


def test_a_folder_in_a_files_place_is_found_before_anything_is_written(tmp_path: Path) -> None:
    """The error names the folder, and every other file is the old one."""
    atomic.write_files(tmp_path, {"a": b"old", "c": b"old"})
    (tmp_path / "b").mkdir()
    with pytest.raises(AdapterFileError, match=r"/b could not be written \(EISDIR.* is unchanged. Move the folder"):
        atomic.write_files(tmp_path, {"a": b"new", "b": b"new", "c": b"new"})
    assert [(tmp_path / name).read_bytes() for name in "ac"] == [b"old", b"old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_rename_that_fails_in_the_middle_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file that failed, and what is unchanged is no more than that."""
    atomic.write_files(tmp_path, {"a": b"old", "b": b"old", "c": b"old"})
    rename = os.replace

    def fail_at_b(source: Path, target: Path) -> None:
        if target.name == "b":
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", fail_at_b)
    with pytest.raises(AdapterFileError, match=r"/b could not be written \(EIO.*Unchanged is b, c\."):
        atomic.write_files(tmp_path, {"a": b"new", "b": b"new", "c": b"new"})
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"new", b"old", b"old"]


def test_a_path_with_nul_is_an_error_of_petunes() -> None:
    """No raw ValueError; it says what is wrong with the path."""
    with pytest.raises(AdapterFileError, match=r"'a\\x00b' is no path.*Save to another folder"):
        atomic.make_folder("a\0b")
