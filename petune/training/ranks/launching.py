"""The parent of `fit(processes=N)`: starts N processes on this machine, watches them, and takes what they have learnt.

The processes meet in a store that the parent holds, on a port of the loopback that the system picks. Whatever happens,
all of them are gone when `Crew.train` returns or raises.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from petune import errors
from petune.config import TrainConfig
from petune.data.preparing import Prepared
from petune.errors import ConfigError, PetuneError, ProcessError
from petune.methods.base import Method
from petune.model.backbone import Backbone
from petune.model.learner import Learner
from petune.storage import checkpoint as storage
from petune.training.callbacks import Callback, RunStart
from petune.training.heeding import Heed, ending
from petune.training.ranks.lost import lost_error
from petune.training.ranks.parcel import pack_job
from petune.training.report import TrainReport
from petune.training.starting import Start

TICK = 0.05
"""Seconds between two looks at the processes."""
GRACE = 15.0
"""Seconds that the others have to end by themselves, once one has gone wrong."""


def crew_for(
    processes: int | None,
    backbone: Backbone,
    name: str,
    method: Method,
    tokenizer: Any,
    data: Prepared,
    config: TrainConfig,
    start: Start | None,
    resume: str | Path | None,
) -> Crew | None:
    """The processes to train in, with all that they need written down; None: this one trains by itself.

    Raises:
        ConfigError: a number that is none, or more than there are GPUs, or a launch within a launch.
        BackboneError, DataError: as `pack_job`.
    """
    if processes is None or not _is_worth_it(processes):
        return None
    folder = tempfile.TemporaryDirectory(prefix="petune-fit-")
    try:
        pack_job(Path(folder.name), backbone, name, method, tokenizer, data, config, start, resume)
    except BaseException:
        folder.cleanup()
        raise
    return Crew(processes, folder, config)


def _is_worth_it(processes: Any) -> bool:
    """Whether processes are to be launched: not for one, nor in a launch of as many."""
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ConfigError(f"processes={processes!r} is out of range.", expected="It must be None or at least 1.")
    world = int(os.environ.get("WORLD_SIZE") or 1)
    if world > 1:
        if world != processes:
            raise ConfigError(
                f"fit(processes={processes}) was called in one of {world} processes that were launched together.",
                expected="Either the launcher starts the processes, or fit does.",
                fix=f"Leave processes out, or pass processes={world}.",
            )
        return False
    there = torch.accelerator.device_count() if torch.accelerator.is_available() else None
    if there is not None and processes > there:
        raise ConfigError(
            f"processes={processes} was asked for, and there {'is' if there == 1 else 'are'} {there} GPU(s).",
            expected="Each process has a GPU of its own.",
            fix=f"Pass processes={there}, or hide the GPUs (CUDA_VISIBLE_DEVICES='') to train on the CPU.",
        )
    return processes > 1


class Crew:
    """N processes that train what lies in a folder.

    Args:
        folder: written by `pack_job`; it goes when the training ends.
    """

    def __init__(self, processes: int, folder: tempfile.TemporaryDirectory[str], config: TrainConfig) -> None:
        self.world, self.config = processes, config
        self._temporary, self.folder = folder, Path(folder.name)
        self.children: list[subprocess.Popen[bytes]] = []
        self._heed = Heed(self._hand_on)
        self._place = (0, 0)
        self._read = 0

    def train(self, learner: Learner, callbacks: Sequence[Callback]) -> TrainReport:
        """Runs the processes; the learner then holds what they have learnt.

        Callbacks are called here, with what the main process tells.

        Raises:
            TrainingError: as `train`; the learner holds the last good adapter.
            ProcessError: a process was lost, or did not start.
            KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, once the processes have saved and left.
            PetuneError: any other of theirs.
        """
        report: TrainReport | None = None
        try:
            with self._temporary, self._heeding():
                try:
                    self._launch()
                    self._watch(callbacks)
                finally:
                    self._end()
                report = self._result(learner)
                if (error := self._error()) is not None:
                    raise error
        finally:
            for callback in callbacks:
                callback.on_end(report)
        assert report is not None
        return report

    def _launch(self) -> None:
        # Nobody else can take the port, and the store is there for the others when the main process dies.
        self._store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        threads = str(max(1, torch.get_num_threads() // self.world))
        shared = {
            "OMP_NUM_THREADS": threads,
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": str(self.world),
            "LOCAL_WORLD_SIZE": str(self.world),
        }
        if not torch.accelerator.is_available():
            shared.setdefault("GLOO_SOCKET_IFNAME", "lo")
        command = [sys.executable, "-m", "petune.training.ranks.launched", str(self.folder)]
        for rank in range(self.world):
            with (self.folder / f"words-{rank}.txt").open("wb") as words:
                self.children.append(
                    subprocess.Popen(
                        command,
                        env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdin=subprocess.PIPE,  # its end tells the child that this process is gone
                        stdout=None if rank == 0 else words,
                        stderr=None if rank == 0 else words,
                        start_new_session=True,  # a Ctrl-C comes here, and goes on from here
                    )
                )

    def _watch(self, callbacks: Sequence[Callback]) -> None:
        """Until all have ended, or must be ended."""
        began, deadline = time.monotonic(), float("inf")
        while any(child.poll() is None for child in self.children):
            self._tell(callbacks)
            now = time.monotonic()
            if any(child.poll() for child in self.children):
                deadline = min(deadline, now + GRACE)
            if self._heed.asked:
                deadline = min(deadline, now + self.config.process_timeout)
            late = [rank for rank in range(self.world) if not (self.folder / f"ready-{rank}").exists()]
            if late and now - began > self.config.process_timeout:
                raise ProcessError(
                    f"Rank {late[0]} of {self.world} was not ready to train in {self.config.process_timeout:g} s.",
                    expected="All processes open the backbone within process_timeout.",
                    fix="Pass a longer TrainConfig(process_timeout=...).",
                )
            if now > deadline:
                return
            time.sleep(TICK)
        self._tell(callbacks)

    def _tell(self, callbacks: Sequence[Callback]) -> None:
        """Calls the callbacks with what the main process has told since the last time."""
        try:
            with (self.folder / "events-0.jsonl").open("rb") as stream:
                stream.seek(self._read)
                lines = stream.readlines()
        except FileNotFoundError:
            return
        for line in lines:
            if not line.endswith(b"\n"):
                return  # the rest of it is still to come
            self._read += len(line)
            what, value = json.loads(line)
            if what == "start":
                value = RunStart(*value)
                self._place = (value.done + 1, value.total)
            elif what == "step":
                self._place = (value["step"] + 1, self._place[1])
            for callback in callbacks:
                getattr(callback, f"on_{what}")(value)

    def _end(self) -> None:
        """Ends those that are left, for good."""
        for child in self.children:
            if child.poll() is None:
                child.kill()  # also one that is stopped
        for child in self.children:
            child.wait()
            if child.stdin is not None:
                child.stdin.close()

    def _result(self, learner: Learner) -> TrainReport | None:
        """What the main process has left: the adapter, and the report of a run that went well."""
        if not (self.folder / "result").exists():
            return None
        found = storage.newest(self.folder / "result")
        assert found is not None
        learner.restore(found.tensors)
        return TrainReport(**found.state["report"]) if found.state["report"] else None

    def _error(self) -> BaseException | None:
        """What went wrong; of several reasons the one that is none of the consequences."""
        told = {rank: found for rank in range(self.world) if (found := self._told(rank))}
        if self._heed.asked:
            return self._left(told)
        if all(child.returncode == 0 for child in self.children):
            return None
        causes = [found for found in told.values() if found["class"] != "ProcessError"] or list(told.values())
        if not causes:
            rank, status = next(
                (rank, child.returncode) for rank, child in enumerate(self.children) if child.returncode
            )
            why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            return lost_error(f"Rank {rank} of {self.world} was lost", why, self._place, self.config)
        cause = causes[0]
        if cause["class"] is not None:
            kind: type[PetuneError] = getattr(errors, cause["class"], ProcessError)
            return kind(cause["what"], expected=cause["expected"], fix=cause["fix"])
        if cause.get("signal"):  # which came to that process alone
            return ending(cause["signal"], [cause["what"]])
        rank = next(rank for rank, found in told.items() if found is cause)
        error = ProcessError(f"Rank {rank} of {self.world} stopped: {cause['what'].rstrip('.')}.")
        error.add_note(cause["traceback"])
        return error

    def _left(self, told: dict[int, dict[str, Any]]) -> BaseException:
        """What a signal ends with: as the main process would have ended, had it been this one."""
        words = next((found["what"] for found in told.values() if found["class"] is None), "")
        return ending(self._heed.asked, [words])

    def _told(self, rank: int) -> dict[str, Any] | None:
        path = self.folder / f"error-{rank}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @contextmanager
    def _heeding(self) -> Iterator[None]:
        """Hands Ctrl-C and SIGTERM on to the processes, which save and leave; a second Ctrl-C ends them at once."""
        self._heed.begin()
        try:
            yield
        finally:
            self._heed.end()

    def _hand_on(self, number: int) -> None:
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)
