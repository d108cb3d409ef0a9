"""The system calls with which files are written: counted, written down, and at the n-th the fault of your choice.

petune's storage writes through the functions of `os` alone, so they are taken in hand there. `unseen` holds what an
audit hook of Python saw being changed past them, and must stay empty.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

CHANGING = ("open", "write", "fsync", "close", "replace", "rename", "unlink", "remove", "mkdir", "rmdir", "link",
            "symlink", "truncate", "ftruncate", "chmod")  # fmt: skip
LOOKING = ("stat", "lstat", "scandir", "listdir")
AUDITED = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}

EVERY = -1

Fault = Callable[[str, tuple[Any, ...]], None]
"""Called in place of the n-th call, with its name and arguments; returns if the call is to be made after all."""


class Call(NamedTuple):
    """One call, with what a power cut can make of it."""

    name: str
    path: str
    other: str = ""
    data: bytes = b""


class Calls:
    """What was called beneath one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.made: list[Call] = []
        self.unseen: list[str] = []
        self.paths: dict[int, str] = {}
        """Open file -> its path."""
        self.inside = 0

    def concerns(self, path: Any) -> bool:
        """Whether a path or an open file lies beneath the folder."""
        if isinstance(path, int):
            return path in self.paths
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)


@contextmanager
def watching(
    folder: Path, *, at: int | None = None, fault: Fault | None = None, names: tuple[str, ...] = CHANGING
) -> Iterator[Calls]:
    """Takes the calls in hand while the block runs.

    Args:
        at: the number of the call at which `fault` acts, from 0, or `EVERY`.
        names: which calls count.
    """
    calls, kept = Calls(folder), {name: getattr(os, name) for name in {*CHANGING, *names}}
    hooked[:] = [calls]
    for name, real in kept.items():
        setattr(os, name, _in_hand(name, real, calls, at if name in names else None, fault, name in names))
    try:
        yield calls
    finally:
        for name, real in kept.items():
            setattr(os, name, real)
        hooked.clear()


def _in_hand(name: str, real: Any, calls: Calls, at: int | None, fault: Fault | None, counts: bool) -> Any:
    def called(*given: Any, **more: Any) -> Any:
        target = given[0] if given else more.get("path", "")
        where = calls.paths.get(target, "") if isinstance(target, int) else target
        if more.get("dir_fd") is not None and calls.concerns(more["dir_fd"]):
            where = os.path.join(calls.paths[more["dir_fd"]], os.fspath(target))
        if not (where and calls.concerns(where)):
            return real(*given, **more)
        if counts:
            number = len(calls.made)
            other = os.fspath(given[1]) if name in ("replace", "rename") else ""
            reads = name == "open" and not given[1] & (os.O_WRONLY | os.O_RDWR)
            data = bytes(given[1]) if name == "write" else b""
            calls.made.append(Call("look" if reads or name in LOOKING else name, os.fspath(where), other, data))
            if at in (number, EVERY) and fault is not None:
                try:
                    fault(name, given)
                except OSError:
                    if name == "close":  # whatever it answers, the system closes the file
                        calls.paths.pop(target, None)
                        real(target)
                    raise
        calls.inside += 1
        try:
            result = real(*given, **more)
        except OSError:
            if counts:
                calls.made[number] = calls.made[number]._replace(name="look")  # it has changed nothing
            raise
        finally:
            calls.inside -= 1
            if name == "close":
                calls.paths.pop(target, None)
        if name == "open":
            calls.paths[result] = os.fspath(where)
        return result

    return called


def die(name: str, given: tuple[Any, ...]) -> None:
    """kill -9, from within."""
    os.kill(os.getpid(), signal.SIGKILL)


def failing(code: int) -> Fault:
    """The call fails with this error number; a file that is to be closed is closed all the same."""

    def fail(name: str, given: tuple[Any, ...]) -> None:
        path = given[0] if given and not isinstance(given[0], int) else None
        raise OSError(code, os.strerror(code), path)

    return fail


hooked: list[Calls] = []


def _audit(event: str, given: tuple[Any, ...]) -> None:
    """Finds changes that were made past the functions in hand."""
    if not hooked or hooked[0].inside:
        return
    writes = event == "open" and bool(given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if (writes or event in AUDITED) and hooked[0].concerns(given[0]):
        hooked[0].unseen.append(f"{event} {given[0]}")


sys.addaudithook(_audit)
