"""Several processes over loopback (gloo), each of which does the same jobs, one after the other.

python -m tests.training.several OUT MODULE {"name of a job": {"kind": "function of the module", ...}, ...}
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 240
"""After which a launch has failed."""

Jobs = dict[str, dict[str, Any]]


def launch(out: Path, module: str, jobs: Jobs, processes: int = 2, **environment: str) -> list[dict[str, Any]]:
    """What each process made of the jobs; ends within a bounded time, whatever happens."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", __name__, str(out), module, json.dumps(jobs)]
    return answers_of(command, out, processes, SECONDS, **environment)


def answers_of(
    command: list[str], out: Path, processes: int, seconds: float, **environment: str
) -> list[dict[str, Any]]:
    """What each process of a command has written to `out`, as 0.json, 1.json, ...; each must end well in time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment}
    children = []
    for rank in map(str, range(processes)):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        children.append(subprocess.Popen(command, cwd=ROOT, env={**base, **ranks}, stderr=subprocess.PIPE, text=True))
    try:
        for child in children:
            _, words = child.communicate(timeout=seconds)
            assert child.returncode == 0, words
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stderr is not None
            child.stderr.close()  # left open, it would be another test that fails of it
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(processes)]


def once(factory: Any, name: str, make: Callable[[Path], Any]) -> Any:
    """What `make` answers, made once in a run of the tests, also where several workers ask for it.

    Args:
        factory: pytest's `tmp_path_factory`; its folders lie beside those of the other workers.
        make: is given an empty folder.
    """
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"several-{name}"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = place / "made.json"
        if not kept.exists():
            work = place / f"work-{os.getpid()}-{time.monotonic_ns()}"
            work.mkdir()
            kept.write_text(json.dumps(make(work)))
        return json.loads(kept.read_text())


def do(module: str, jobs: Jobs) -> dict[str, Any]:
    """The answers of a module's functions, by the names of the jobs; `other.module:function` is another module's."""
    answers = {}
    for name, knobs in jobs.items():
        knobs = dict(knobs)
        where, _, kind = knobs.pop("kind").rpartition(":")
        answers[name] = getattr(importlib.import_module(where or module), kind)(**knobs)
    return answers


if __name__ == "__main__":
    place, where, work = sys.argv[1:]
    made = do(where, json.loads(work))
    (Path(place) / f"{os.environ['RANK']}.json").write_text(json.dumps(made))
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
