"""Two processes train together, and one dies or is stopped at a random step; the other must end, and both go on.

Each process is a command of its own, as on two machines; they meet over the loopback. In a fault run one of them kills
itself (SIGKILL) or stops itself (SIGSTOP) after a random step. The other must end with a `ProcessError` that names it
and the checkpoint, within the bound. All runs are then resumed, in one more launch, and must end with the bits of a run
that was never broken.

    python -m benchmarks.faults.two_processes OUT RANK JOBS      one of the two processes (not to be called by hand)
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from petune import LoRA, TrainConfig, Tuner
from petune.errors import ProcessError
from petune.knobs import knobs
from petune.training.ranks.agreement import digests

ROOT = Path(__file__).parents[2]
COUNT = 12
STEPS = 15
STOPPED_EVERY = 4
"""One of so many victims is stopped and not killed."""
TIMEOUT = 4.0
"""`process_timeout` of the runs in which a process is stopped."""
BOUND = {"kill": 20.0, "stop": TIMEOUT + 20.0}
"""Seconds from the fault to the end of the other process."""
LAUNCH = 120.0
"""Seconds that any launch may take."""


@knobs
class Fatal(LoRA):
    """LoRA in a process that may be the victim: after the step that `FAULT` names it does away with itself."""

    def after_step(self, layers: Any, progress: Any) -> None:
        super().after_step(layers, progress)
        fault = json.loads(os.environ.get("FAULT", "null"))
        if fault and fault["rank"] == int(os.environ["RANK"]) and fault["step"] == progress.step:
            Path(fault["mark"]).write_text(str(time.time()))
            os.kill(os.getpid(), getattr(signal, f"SIG{fault['how'].upper()}"))


def run(count: int, seed: int) -> dict[str, Any]:
    """Breaks `count` runs at random steps and resumes them."""
    rng, began = random.Random(seed), time.monotonic()
    tally: dict[str, Any] = {
        "runs": count, "killed": 0, "stopped": 0, "ended_in_time": 0, "named_the_rank": 0, "named_the_checkpoint": 0,
        "resumed_bit_identical": 0, "slowest_end_seconds": 0.0, "wrong": [],
    }  # fmt: skip
    with TemporaryDirectory(prefix="petune-two-") as place:
        jobs: dict[str, Any] = {"whole": {"output_dir": f"{place}/whole"}}
        for number in range(count):
            how = "stop" if number % STOPPED_EVERY == STOPPED_EVERY - 1 else "kill"
            victim, step = rng.randrange(2), rng.randrange(3, STEPS)
            told = _break(Path(place), number, how, victim, step)
            tally["stopped" if how == "stop" else "killed"] += 1
            for key in ("ended_in_time", "named_the_rank", "named_the_checkpoint"):
                tally[key] += told[key]
            tally["slowest_end_seconds"] = max(tally["slowest_end_seconds"], told["seconds"])
            if not all(told[key] for key in ("ended_in_time", "named_the_rank", "named_the_checkpoint")):
                tally["wrong"].append({"how": how, "rank": victim, "step": step, **told})
            jobs[f"run {number}"] = {"output_dir": f"{place}/{number}", "resume": "auto"}
        first, second = _results(Path(place), launch(Path(place), jobs))
        for number in range(count):
            same = first[f"run {number}"] == first["whole"] == second[f"run {number}"] == second["whole"]
            tally["resumed_bit_identical"] += same
            if not same:
                tally["wrong"].append({"run": number, "resumed": first[f"run {number}"], "whole": first["whole"]})
    return {**tally, "failures": len(tally["wrong"]), "seconds": round(time.monotonic() - began, 1)}


def _break(place: Path, number: int, how: str, victim: int, step: int) -> dict[str, Any]:
    """One broken run: what the survivor said, and how long after the fault it ended."""
    mark = place / f"fault-{number}"
    fault = {"rank": victim, "step": step, "how": "kill" if how == "kill" else "stop", "mark": str(mark)}
    more = {"process_timeout": TIMEOUT} if how == "stop" else {}
    jobs = {"broken": {"output_dir": f"{place}/{number}", **more}}
    children = launch(place, jobs, fault=fault, wait_for=1 - victim)
    ended = time.time()
    seconds = round(ended - float(mark.read_text()), 1) if mark.exists() else LAUNCH
    path = place / f"result-{1 - victim}.json"
    error = json.loads(path.read_text())["broken"].get("error", "") if path.exists() else children[1 - victim]
    for rank in "01":
        (place / f"result-{rank}.json").unlink(missing_ok=True)
    return {
        "seconds": seconds,
        "ended_in_time": seconds < BOUND[how],
        "named_the_rank": error.startswith(f"ProcessError: Rank {victim}"),
        "named_the_checkpoint": "resume='auto': it goes on from checkpoint-" in error,
        "error": error,
    }


def launch(
    place: Path, jobs: dict[str, Any], *, fault: dict[str, Any] | None = None, wait_for: int | None = None
) -> list[str]:
    """Starts the two processes, each by a command of its own; what they wrote on stderr, once they are gone.

    Args:
        wait_for: the rank whose end is awaited; the other is then ended. None: both.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "FAULT": json.dumps(fault),
    }  # fmt: skip
    children, words = [], [place / f"words-{rank}.txt" for rank in range(2)]
    for rank in range(2):
        with words[rank].open("wb") as stream:
            command = [sys.executable, "-m", "benchmarks.faults.two_processes", str(place), str(rank), json.dumps(jobs)]
            env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=stream, stderr=stream))
    try:
        for rank, child in enumerate(children):
            if wait_for in (None, rank):
                child.wait(timeout=LAUNCH)
    except subprocess.TimeoutExpired:
        pass  # told by the missing result
    finally:
        for child in children:
            child.kill()
            child.wait()
    return [path.read_text(errors="replace")[-2000:] for path in words]


def _results(place: Path, words: list[str]) -> list[dict[str, Any]]:
    paths = [place / f"result-{rank}.json" for rank in range(2)]
    if missing := [rank for rank, path in enumerate(paths) if not path.exists()]:
        raise RuntimeError(f"Rank {missing[0]} left no result: {words[missing[0]]}")
    return [json.loads(path.read_text()) for path in paths]


def work(jobs: dict[str, Any]) -> dict[str, Any]:
    """What one process makes of all jobs, one after the other: digests of the adapter, or the error."""
    from tests import tiny

    made: dict[str, Any] = {}
    for name, knobs_ in jobs.items():
        resume = knobs_.pop("resume", None)
        tuner = Tuner(tiny.backbone("bert", dropout=0.1), method=Fatal(rank=4), tokenizer=tiny.tokenizer("bert"))
        config = TrainConfig(
            epochs=3, batch_size=4, learning_rate=0.02, save_every=2, keep_last=1, progress="off", **knobs_
        )
        try:
            tuner.fit(tiny.rows(40), tiny.rows(8, seed=3), config, resume=resume)
            parts = {f"{path}:{n}": t for path, named in tuner.adapter.tensors().items() for n, t in named.items()}
            made[name] = {"digests": digests({**parts, **tuner.adapter.head()}), "steps": tuner.report.steps}
        except ProcessError as error:
            made[name] = {"error": f"{type(error).__name__}: {error}"}
    return made


if __name__ == "__main__":
    results = work(json.loads(sys.argv[3]))
    Path(sys.argv[1], f"result-{sys.argv[2]}.json").write_text(json.dumps(results))
