"""A process that dies, hangs or is stopped ends the run of all the others, within a bounded time and with its name.

The backend notices a broken connection at once, and silence after `process_timeout`. Who it was it cannot tell; so each
process leaves a mark in the rendezvous store every `BEAT` seconds, and after a failure the others look whose marks have
stopped. A backend that does not come back by itself is ended by the same thread that leaves the marks.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from petune.config import TrainConfig
from petune.errors import ProcessError
from petune.storage import checkpoint as storage

BEAT = 0.5
"""Seconds between two marks of a process."""
LOOK = 4
"""After a failure so many beats pass before a process without a new mark counts as lost."""
GRACE = 30.0
"""Seconds beyond `process_timeout` in which the backend may end by itself."""
_runs = itertools.count()


@contextmanager
def watched(accelerator: Accelerator, config: TrainConfig, at: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """Around a run of several processes: a broken line to the others becomes an error that says whose it was.

    Args:
        at: the step that is being made, and how many there are; (0, 0): before the first.

    Raises:
        ProcessError: another process was lost, or did not come to a meeting in time.
    """
    if accelerator.num_processes == 1:
        yield
        return
    set_timeout(config.process_timeout)
    pulse = Pulse(accelerator.process_index, accelerator.num_processes, at)
    pulse.start(config.process_timeout + GRACE)
    try:
        yield
    except BaseException as error:
        if not is_of_the_line(error):
            pulse.tell(f"{type(error).__name__}: {error}")
            raise
        raise lost_error(pulse.lost(), first_line(error), at(), config) from error
    finally:
        pulse.stop()


def set_timeout(seconds: float) -> None:
    """How long a process waits in a meeting of all, also where the group was made by an earlier run."""
    torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds))


def is_of_the_line(error: BaseException) -> bool:
    """Whether an exception tells of the connection between processes, and not of the work."""
    if isinstance(error, torch.distributed.DistError):
        return True
    words = r"gloo|NCCL|[Cc]onnection (was )?(closed|reset|refused)|Broken pipe|Timed out waiting|Socket"
    return type(error) is RuntimeError and re.search(words, str(error)) is not None


def first_line(error: BaseException) -> str:
    r"""What happened: the first sentence, without the source places, frames and advice that torch adds.

    Examples:
        >>> first_line(RuntimeError("[../pair.cc:5] Connection closed by peer. Check the logs. GLHF!\nFrame 1"))
        'Connection closed by peer'
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[\S+:\d+\]\s*", "", line).split(". ")[0].rstrip(". ")


def lost_error(who: str, why: str, at: tuple[int, int], config: TrainConfig) -> ProcessError:
    """The error of those that are left; it names the checkpoint from which the run goes on."""
    step, total = at
    where = f"at step {step} of {total}" if total else "before the first step"
    kept = storage.found(Path(config.output_dir)) if config.output_dir is not None else []
    fix = "No checkpoint was kept: start again, with save_every and output_dir."
    if kept:
        fix = f"Start it again with resume='auto': it goes on from {kept[-1].name} in {config.output_dir}."
    return ProcessError(f"{who} {where} ({why}).", expected="All processes of a run stay until its end.", fix=fix)


class Pulse:
    """The marks of one process in the rendezvous store, and its view of those of the others."""

    def __init__(self, rank: int, world: int, at: Callable[[], tuple[int, int]]) -> None:
        self._rank, self._world, self._at = rank, world, at
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._run, self._is_reached = next(_runs), True
        # A client of its own: a thread that waits in the group's client would hold up the meetings.
        group: Any = torch.distributed.distributed_c10d._get_default_store()
        self._store = group.clone()
        self._store.set_timeout(timedelta(seconds=LOOK * BEAT))

    def start(self, limit: float, end: Callable[[str], None] | None = None) -> None:
        """Begins to leave marks.

        Args:
            limit: seconds without any mark of another process, or without the store, after which this one is ended.
            end: how; by default with a line on stderr, at once, as the main thread hangs in the backend.
        """
        self._beat()
        self._thread = threading.Thread(target=self._go_on, args=(limit, end or _end), name="petune-pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leaves no more marks; says that this process has left of its own will."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * LOOK * BEAT)
        self._say("left", "yes")

    def tell(self, words: str) -> None:
        """Why this process breaks off, for the others."""
        self._say("why", words[:1000])

    def lost(self) -> str:
        """Who has gone, in words; takes a few beats."""
        before = self._try(self._marks)
        time.sleep(LOOK * BEAT)
        now = self._try(self._marks)
        if before is None or now is None:
            return "Rank 0, which holds the rendezvous, was lost"
        others = [rank for rank in range(self._world) if rank != self._rank]
        for rank in others:
            if why := self._said("why", rank):
                return f"Rank {rank} of {self._world} broke off ({why})"
        silent = [rank for rank in others if now[rank] == before[rank]]
        gone = [rank for rank in silent if not self._said("left", rank)] or silent
        if not gone:
            seen = ", ".join(f"rank {rank} at step {self._said('step', rank)}" for rank in others)
            return f"Rank {self._rank} of {self._world} lost the others, which still run ({seen}),"
        names = f"Rank {gone[0]}" if len(gone) == 1 else f"Ranks {', '.join(map(str, gone))}"
        return f"{names} of {self._world} {'was' if len(gone) == 1 else 'were'} lost"

    def _go_on(self, limit: float, end: Callable[[str], None]) -> None:
        seen, since = self._try(self._marks), time.monotonic()
        while not self._over.wait(BEAT):
            self._try(self._beat)
            now = self._try(self._marks)
            still = seen is None or now is None or any(
                was == is_ for rank, (was, is_) in enumerate(zip(seen, now, strict=True)) if rank != self._rank
            )  # fmt: skip
            if not still:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > limit:
                return end(f"petune: rank {self._rank} has heard nothing of another process for {limit:.0f} s.")

    def _beat(self) -> None:
        self._store.add(self._key("beat", self._rank), 1)
        self._store.set(self._key("step", self._rank), str(self._at()[0]))

    def _marks(self) -> list[int]:
        return [self._store.add(self._key("beat", rank), 0) for rank in range(self._world)]

    def _say(self, what: str, words: str) -> None:
        self._try(lambda: self._store.set(self._key(what, self._rank), words))

    def _said(self, what: str, rank: int) -> str | None:
        key = self._key(what, rank)
        found: bytes | None = self._try(lambda: self._store.get(key) if self._store.check([key]) else None)
        return None if found is None else found.decode()

    def _key(self, what: str, rank: int) -> str:
        return f"petune/{self._run}/{what}/{rank}"

    def _try(self, work: Callable[[], Any]) -> Any:
        """What the store answers; None where it cannot be reached, from then on.

        A store whose process is stopped answers never, and torch waits for it without an end; so a thread asks.
        """
        answer: list[Any] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):
                answer.append(work())

        if self._is_reached:
            thread = threading.Thread(target=ask, name="petune-ask", daemon=True)
            thread.start()
            thread.join(timeout=2 * LOOK * BEAT)
            self._is_reached = bool(answer)
        return answer[0] if answer else None


def _end(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
    os._exit(70)
