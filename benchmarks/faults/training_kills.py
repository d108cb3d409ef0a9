"""kill -9 while training, and going on with no human act: the same bits as the run that was not killed.

Half of the kills come at a random moment of the run, half before a random system call of a random save. `keep_last=1`:
after each kill the folder holds one whole checkpoint, or (before the first) none. A failure is a run that does not go
on, that ends with other bits, or that had lost its checkpoints or more steps than lie between two.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults import runs
from benchmarks.faults.calls import die, watching
from benchmarks.faults.nursery import Nursery, at_hand
from benchmarks.faults.saves import room
from petune.storage import checkpoint

COUNT = 60
CALLS_OF_A_SAVE = 30
TRIES = 20


def run(count: int, seed: int) -> dict[str, Any]:
    """`count` kills, the methods in turns; half of them inside a save."""
    draw, nursery = random.Random(seed), at_hand()
    counts: Counter[str] = Counter(kills=0, in_training=0, inside_a_save=0, before_the_first_checkpoint=0,
                                   identical=0, failures=0)  # fmt: skip
    told: list[str] = []
    with room() as place:
        whole = {name: _whole(nursery, Path(place) / name, name) for name in list(runs.METHODS)[: max(count, 1)]}
        for number in range(count):
            name = list(whole)[number % len(whole)]
            folder = Path(place) / f"run-{number}"
            inside = number // len(whole) % 2 == 1
            for _ in range(TRIES):
                shutil.rmtree(folder, ignore_errors=True)
                if killed := _kill(nursery, folder, name, whole[name][1], inside, draw):
                    break
            assert killed, f"{TRIES} runs were over before they could be killed"
            counts["kills"] += 1
            counts["inside_a_save" if inside else "in_training"] += 1
            what = _judged(nursery, folder, name, whole[name][0], counts)
            counts["failures"] += what is not None
            told += [f"{name}: {what}"] if what else []
    return {**counts, "methods": list(whole), "told": told[:5]}


def warm_up() -> None:
    """The first fit of a process imports for seconds. On a CPU it leaves no thread that what is forked would need."""
    runs.fit("lora", None, epochs=1)


def fit(name: str, folder: str, answer: str) -> None:
    """A run from wherever it stands; its digest is written to `answer`."""
    Path(answer).write_text(runs.fit(name, Path(folder)))


def fit_until(name: str, folder: str, at: int) -> None:
    """A run that is dead before its system call number `at` in its folder."""
    Path(folder).mkdir()
    with watching(Path(folder), at=at, fault=die):
        runs.fit(name, Path(folder))


def _whole(nursery: Nursery, folder: Path, name: str) -> tuple[str, float]:
    """The digest of a run that is not killed, and its seconds."""
    answer = folder.with_suffix(".answer")
    nursery.start("benchmarks.faults.training_kills:fit", name, str(folder), str(answer))
    began = time.perf_counter()  # the first start waits for all imports
    assert nursery.wait() == 0
    return answer.read_text(), time.perf_counter() - began


def _kill(nursery: Nursery, folder: Path, name: str, seconds: float, inside: bool, draw: random.Random) -> bool:
    """One kill; False: the run was over before."""
    if inside:
        at = draw.randrange(10, 6 * CALLS_OF_A_SAVE)
        ended = nursery.run("benchmarks.faults.training_kills:fit_until", name, str(folder), at)
        assert ended in (0, -signal.SIGKILL), f"a run ended with {ended}"
        return ended == -signal.SIGKILL
    pid = nursery.start("benchmarks.faults.training_kills:fit", name, str(folder), str(folder.with_suffix(".answer")))
    time.sleep(draw.uniform(0.0, seconds))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    ended = nursery.wait()
    assert ended in (0, -signal.SIGKILL), f"a run ended with {ended}"
    return ended == -signal.SIGKILL


def _judged(nursery: Nursery, folder: Path, name: str, whole: str, counts: Counter[str]) -> str | None:
    """What is wrong after a kill; None: nothing, and the run was ended with the same bits."""
    history = folder / "history.jsonl"
    done = history.read_text().count('"loss"') if history.exists() else 0
    found = checkpoint.newest(folder)
    kept = 0 if found is None else found.step
    counts["before_the_first_checkpoint"] += found is None
    if done - kept > runs.SAVE_EVERY:
        return f"{done} steps were done and {kept} are kept"
    answer = folder.with_suffix(".resumed")
    if nursery.run("benchmarks.faults.training_kills:fit", name, str(folder), str(answer)):
        return f"the run does not go on from step {kept}"
    if answer.read_text() != whole:
        return f"the run went on from step {kept} and ended with other bits"
    counts["identical"] += 1
    if len(checkpoint.found(folder)) != 1 or any(path.name.endswith(".tmp") for path in folder.iterdir()):
        return f"left: {sorted(path.name for path in folder.iterdir())}"
    return None
