"""Question: what does each task reach, trained with one method on two cores in a few minutes?

    python -m benchmarks.tasks                                    # every task; nothing is written
    python -m benchmarks.tasks --only similarity --write          # one of them; the others stay as they were measured

Each task is a module of this package, whose docstring says what is done. `run(seed)` gives a section of the result:

    task, method, backbone, data     names; a backbone that was not pretrained says so
    synthetic                        whether the data were made from templates
    rows                             how many of each part
    scores                           figures of the test part; `before` and `after` where both say something
    seconds                          of training

and whatever else is worth keeping. Results go to benchmarks/results/tasks.json, one section per task. The exit status
is 1 when a task could not be run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers.utils import logging

from benchmarks import machine

RESULT = "tasks"
THREADS = 2
KEYS = ("task", "method", "backbone", "data", "synthetic", "rows", "scores", "seconds")


def main(words: list[str] | None = None) -> int:
    """Runs what is asked for; 0 when all of it ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = tasks()
    parser.add_argument("--only", choices=known, nargs="+", default=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the scores to benchmarks/results/tasks.json")
    asked = parser.parse_args(words)
    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    failed = 0
    for name in asked.only:
        print(f"{name} ...", flush=True)
        try:
            section = measured(name, asked.seed)
        except Exception:  # one task that cannot be run keeps no other from it
            traceback.print_exc()
            failed += 1
            continue
        print(json.dumps(section, indent=2, ensure_ascii=False), flush=True)
        if asked.write:
            machine.write_result(RESULT, {"tasks": before() | {name: section}})
    return 1 if failed else 0


def tasks() -> list[str]:
    """The names that can be asked for: the modules of this package that have `run`, with dashes."""
    names = sorted(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return [name.replace("_", "-") for name in names if name != "__main__" and _can_run(name)]


def measured(name: str, seed: int) -> dict[str, Any]:
    """One section: what the task scored, when, and on what.

    Raises:
        KeyError: a module that leaves out what a section must say.
    """
    section = _module(name).run(seed)
    if lacking := [key for key in KEYS if key not in section]:
        raise KeyError(f"benchmarks.tasks.{name}.run says nothing of {', '.join(lacking)}")
    here = machine.describe()
    about = {
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        **{key: here[key] for key in ("cpu", "threads", "commit", "uncommitted_changes")},
    }
    return {**{key: section[key] for key in KEYS}, **section, "about": about}


def before() -> dict[str, Any]:
    """The sections of earlier runs."""
    path = machine.RESULTS / f"{RESULT}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["tasks"]) if path.exists() else {}


def _can_run(name: str) -> bool:
    # By its text: importing them all to list them would cost seconds.
    return "\ndef run(" in (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.tasks.{name.replace('-', '_')}")


if __name__ == "__main__":
    sys.exit(main())
