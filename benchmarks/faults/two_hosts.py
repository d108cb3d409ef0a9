"""Two hosts train one adapter: `accelerate launch` on each, in network namespaces of their own joined by a cable.

Each run trains, evaluates, predicts and saves on both; a run counts when both hold the same bits and figures, and only
the main process wrote. It needs root and `ip` (iproute2); without them nothing is run and that is told.

    python -m benchmarks.faults.two_hosts OUT       the script that the launchers start
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
COUNT = 2
LIMIT = 300.0
"""Seconds that one launch may take."""
NETWORK = "10.203.17"
CABLE = ("petune-a", "petune-b")
"""Names of the namespaces, and of the cable's end in each."""


def run(count: int, seed: int) -> dict[str, Any]:
    """Trains `count` times on two hosts; the seed is the first run's."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return {"runs": 0, "not_run": "network namespaces need root and ip (iproute2)"}
    tally = {"runs": count, "same_adapter": 0, "same_figures": 0, "only_the_main_one_wrote": 0}
    began, wrong = time.monotonic(), []
    with two_namespaces() as hosts:
        for number in range(count):
            with TemporaryDirectory(prefix="petune-hosts-") as place:
                first, second = apart(Path(place), f"{NETWORK}.1", hosts, seed + number)
                tally["same_adapter"] += first.get("digests", 1) == second.get("digests", 2)
                tally["same_figures"] += first.get("figures", 1) == second.get("figures", 2)
                tally["only_the_main_one_wrote"] += [first.get("saved"), second.get("saved")] == [True, False]
                wrong += [each["error"] for each in (first, second) if "error" in each]
    failures = sum(count - value for key, value in tally.items() if key != "runs")
    return {**tally, "failures": failures, "wrong": wrong, "seconds": round(time.monotonic() - began, 1)}


@contextmanager
def two_namespaces() -> Iterator[list[list[str]]]:
    """Two network namespaces and a cable between them; the words before a command that runs in each."""
    _take_down()
    try:
        for name in CABLE:
            _ip("netns", "add", name)
        _ip("link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1])
        for number, name in enumerate(CABLE, start=1):
            _ip("link", "set", name, "netns", name)
            _ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", name)
            for link in (name, "lo"):
                _ip("-n", name, "link", "set", link, "up")
        yield [
            ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={name}", f"TP_SOCKET_IFNAME={name}"]
            for name in CABLE
        ]
    finally:
        _take_down()


def _take_down() -> None:
    for name in CABLE:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=30)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=30)


def apart(place: Path, address: str, hosts: Sequence[Sequence[str]] = ((), ()), seed: int = 0) -> list[dict[str, Any]]:
    """Two launch commands, one on each host, that meet at the first one's address; what each process came to."""
    port = str(free_port())
    commands = [
        [*host, sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2",
         "--machine_rank", str(rank), "--num_processes", "2", "--main_process_ip", address,
         "--main_process_port", port, "-m", "benchmarks.faults.two_hosts", str(place), str(seed)]
        for rank, host in enumerate(hosts)
    ]  # fmt: skip
    return launched(place, commands)


def together(place: Path, seed: int = 0) -> list[dict[str, Any]]:
    """One command, torchrun, that starts both processes; what each came to."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()),
        "-m", "benchmarks.faults.two_hosts", str(place), str(seed),
    ]  # fmt: skip
    return launched(place, [command])


def launched(place: Path, commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Runs the commands side by side, within a bounded time; the results of rank 0 and rank 1."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    children, words = [], [place / f"words-{number}.txt" for number in range(len(commands))]
    for path, command in zip(words, commands, strict=True):
        with path.open("wb") as stream:
            children.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=stream, stderr=stream))
    try:
        for child in children:
            child.wait(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        pass  # told by the missing result
    finally:
        for child in children:
            child.terminate()  # a launcher takes its processes along
        for child in children:
            try:
                child.wait(timeout=40)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    said = " ".join(path.read_text(errors="replace")[-1500:] for path in words)
    paths = [place / f"result-{rank}.json" for rank in range(2)]
    return [json.loads(path.read_text()) if path.exists() else {"error": said} for path in paths]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def script(place: Path, seed: int) -> None:
    """What a user's script does, the same on every process; only the saving asks which one it is."""
    from petune import TrainConfig, Tuner
    from petune.training.ranks.agreement import digests
    from tests import tiny

    rank = int(os.environ["RANK"])
    tuner = Tuner(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"))
    knobs = {"save_every": 4, "output_dir": place / f"run-{rank}", "progress": "off"}
    tuner.fit(tiny.rows(30), tiny.rows(9, seed=3), TrainConfig(epochs=2, batch_size=4, seed=seed, **knobs))
    if rank == 0:
        tuner.save(place / "adapter")
    parts = {f"{path}:{name}": t for path, named in tuner.adapter.tensors().items() for name, t in named.items()}
    made = {
        "digests": digests({**parts, **tuner.adapter.head()}),
        "figures": dict(tuner.evaluate(tiny.rows(9, seed=3))),
        "answers": tuner.predict([row["text"] for row in tiny.rows(5, seed=4)]),
        "saved": any((place / f"run-{rank}").glob("checkpoint-*")),
        "steps": tuner.report.steps,
    }
    (place / f"result-{rank}.json").write_text(json.dumps(made))


if __name__ == "__main__":
    script(Path(sys.argv[1]), int(sys.argv[2]))
