"""Processes to be killed, for tens of milliseconds each: a server has imported everything and forks for each of them.

    with Nursery() as nursery:                               # calls `warm_up` of a module, where there is one
        pid = nursery.start("benchmarks.faults.saving_kills:save", str(folder))
        os.kill(pid, signal.SIGKILL)
        nursery.wait()                                       # -9

It has one thread, so what it forks is as sound as a new process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from typing import Any

from benchmarks import machine

PATIENCE_SECONDS = 300.0
"""For whatever a process does; after it the harness fails and does not hang."""


@functools.cache
def at_hand() -> Nursery:
    """One server for all harnesses of a process: it takes seconds to import everything. It ends with the process."""
    made = Nursery().__enter__()
    atexit.register(made.__exit__)
    return made


class Nursery:
    """Starts functions of modules in processes of their own, one after the other."""

    def __enter__(self) -> Nursery:
        quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        quiet |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(machine.ROOT)}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=machine.ROOT,
            env={**os.environ, **quiet},
        )
        self._child = 0
        return self

    def __exit__(self, *_: Any) -> None:
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()

    def start(self, work: str, *given: Any) -> int:
        """Begins `module:function` with JSON arguments in a new process; its id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([work, given]) + "\n")
        self._child = int(self._line())
        return self._child

    def wait(self) -> int:
        """The exit status of the process that was started, negative for a signal."""
        status, self._child = int(self._line()), 0
        return status

    def run(self, work: str, *given: Any) -> int:
        """Start and wait."""
        self.start(work, *given)
        return self.wait()

    def _line(self) -> str:
        # Each line is asked for by one that was sent, so none is ever waiting in the reader's buffer.
        stdout = self._server.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], PATIENCE_SECONDS)
        line = stdout.readline() if ready else ""
        if not line:
            raise RuntimeError("The server of the processes has died, or one of them does not end.")
        return line


def _serve() -> None:
    import torch

    torch.set_num_threads(1)
    warmed: set[str] = set()
    for line in sys.stdin:
        work, given = json.loads(line)
        name, _, function = work.partition(":")
        module = importlib.import_module(name)
        if name not in warmed:  # what the first time costs is paid here
            warmed.add(name)
            getattr(module, "warm_up", lambda: None)()
        found = getattr(module, function)
        if child := os.fork():
            print(child, flush=True)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)  # what it prints is no answer of the server
            found(*given)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0) if not isinstance(end.code, str) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)


if __name__ == "__main__":
    _serve()
