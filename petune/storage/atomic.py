"""Crash-safe writes: a reader sees the whole old file or the whole new one, also after a kill or a power cut.

The protocol is a temporary file in the same folder, fsync, rename, fsync of the folder. A rename within one folder
is atomic, and only fsync makes sure that its bytes are on the disk before its name is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from petune.errors import AdapterFileError, PetuneError

_PORTION = 1 << 26
"""Bytes that are handed to the system at once; it takes no more than 2 GB."""
_TEMPORARY = re.compile(r"\.petune-(\d+)-[0-9a-f]{8}\.tmp")


def write_file(path: str | Path, data: bytes) -> None:
    """Writes one file whole or not at all.

    Args:
        path: a link is replaced by the file, what it points to is left alone.
        data: the bytes of the file.

    Raises:
        AdapterFileError: read-only folder, disk full, no permission; the old file is then as it was.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_file(folder / "a.txt", b"whole")
        >>> (folder / "a.txt").read_bytes(), len(list(folder.iterdir()))
        (b'whole', 1)
    """
    write_files(Path(path).parent, {Path(path).name: data})


def write_files(folder: str | Path, files: dict[str, bytes]) -> None:
    """Writes several files of one folder; the LAST one is the commit.

    All are staged and fsynced before the first rename, so a full disk changes nothing. Then they are renamed in
    their order: whoever holds the last one to be the truth never sees it before the others, nor any before the first,
    not even after a power cut, which could lose the earlier of two renames and keep the later one.

    Raises:
        AdapterFileError: when a file cannot be staged or renamed; names not staged yet are as they were.
    """
    folder = Path(folder)
    staged: list[tuple[Path, Path]] = []
    at, renamed = folder, 0
    try:
        for at in (folder / name for name in files):
            if at.is_dir() and not at.is_symlink():  # no file can be renamed over it
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for name, data in files.items():
            at = folder / name
            staged.append((_temporary(folder), at))
            stage(staged[-1][0], data)
        for temporary, at in staged:
            if renamed == 1 or (renamed and renamed == len(staged) - 1):
                sync_folder(folder)
            os.replace(temporary, at)
            renamed += 1
    except OSError as error:
        raise _refusal(at, error, kept=list(files)[renamed:] if renamed else []) from error
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink()
    try:
        sync_folder(folder)
    except OSError as error:  # the rename has happened: this is no failed save any more
        warnings.warn(f"{folder} is written, but the disk did not confirm it ({_named(error)}).", stacklevel=3)


def make_folder(folder: str | Path) -> Path:
    """The folder, made with its parents if it is not there; what was made is on the disk before anything in it is.

    Raises:
        AdapterFileError: when it cannot be made, or is a file.
    """
    folder = Path(folder)
    try:
        missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
        folder.mkdir(parents=True, exist_ok=True)
        for place in reversed(missing):
            with contextlib.suppress(PermissionError):  # a folder above that may be entered and not be listed
                sync_folder(place.parent)
    except OSError as error:
        raise _refusal(folder, error) from error
    except ValueError as error:  # NUL in it
        raise AdapterFileError(
            f"{str(folder)!r} is no path ({error}).", expected="A folder.", fix="Save to another folder."
        ) from error
    return folder


def sync_folder(folder: str | Path) -> None:
    """Makes the names in a folder durable; a no-op where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: str | Path) -> None:
    """Removes the temporary files that killed writers left behind; those of living processes stay."""
    try:
        there = list(Path(folder).iterdir())
    except OSError:  # a courtesy: what cannot be looked through will be told by the write
        return
    for path in there:
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def only_writer(folder: str | Path, refusal: type[PetuneError] = AdapterFileError) -> Iterator[None]:
    """Holds the folder against other writers, in this process and others, while the block runs.

    The system gives the lock back when the process ends, however it ends.

    Args:
        refusal: the error to raise.

    Raises:
        AdapterFileError: when another writer holds it, or it cannot be opened.
    """
    try:
        import fcntl
    except ImportError:  # Windows: a rename over an open file fails there, which is the same protection
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _refusal(Path(folder), error, refusal) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            os.close(handle)
            raise refusal(
                f"Another process or thread is writing to {folder}.",
                expected="One writer at a time.",
                fix="Wait for it to end, or save to another folder.",
            ) from None
        # Some network file systems have no locks; that is no reason not to save.
        warnings.warn(f"{folder} cannot be locked ({_named(error)}): see that nobody else writes to it.", stacklevel=3)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)  # gives the lock back


def stage(path: Path, data: bytes) -> None:
    """Writes a file that is not there yet and waits until its bytes are on the disk; the mode follows the umask.

    Raises:
        OSError: as the system gives it; what was written of the file is still there.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view[:_PORTION]) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(folder: Path) -> Path:
    return folder / f".petune-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _alive(pid: int) -> bool:
    if pid == os.getpid() or os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _named(error: OSError) -> str:
    code = errno.errorcode.get(error.errno or 0, "unknown")
    return f"{code}: {os.strerror(error.errno)}" if error.errno else str(error)


def _refusal(
    path: Path, error: OSError, refusal: type[PetuneError] = AdapterFileError, kept: Sequence[str] = ()
) -> PetuneError:
    """The error for an operating-system error; its number stays in the message.

    Args:
        kept: names that were not replaced, where others were.
    """
    fixes = {
        errno.ENOSPC: "Free some disk space and save again.",
        errno.EDQUOT: "Free some of your quota and save again.",
        errno.EROFS: "Save to a folder on a writable file system.",
        errno.EACCES: "Save to a folder that you may write to.",
        errno.EPERM: "Save to a folder that you may write to.",
        errno.EEXIST: "Give a folder, not a file.",
        errno.ENOTDIR: "Give a folder, not a file.",
        errno.EISDIR: "Move the folder of that name away, or save to another folder.",
    }
    return refusal(
        f"{path} could not be written ({_named(error)}, errno {error.errno}).",
        expected=f"Unchanged is {', '.join(kept)}." if kept else "What was there before is unchanged.",
        fix=fixes.get(error.errno or 0, "Save to another folder."),
    )
