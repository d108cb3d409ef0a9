"""Question: what is lost when the process is killed, the disk fails, or the files are not what they should be?

    python -m benchmarks.faults                               # every harness in its long form; nothing is written
    python -m benchmarks.faults --only saving_kills --write   # one of them; the others stay as they were counted
    python -m benchmarks.faults --only saving_kills --count 5 --seed 7

Each harness is a module of this package, whose docstring says what it does and what counts as a failure. The counts go
to benchmarks/results/faults.json, one section per harness. The exit status is 1 when a harness could not be run, or
when its `failures` are not 0.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers.utils import logging

from benchmarks import machine

RESULT = "faults"


def main(words: list[str] | None = None) -> int:
    """Runs what is asked for; 0 when all of it ran and nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = harnesses()
    parser.add_argument("--only", choices=known, nargs="+", default=known, help="only these harnesses")
    parser.add_argument("--count", type=int, help="how many faults (default: the harness's COUNT)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the counts to benchmarks/results/faults.json")
    asked = parser.parse_args(words)
    logging.disable_progress_bar()
    failed = 0
    for name in asked.only:
        print(f"{name} ...", flush=True)
        try:
            section = counted(name, asked.count, asked.seed)
        except Exception:  # one harness that cannot be run keeps no other from it
            traceback.print_exc()
            failed += 1
            continue
        print(json.dumps(section["counts"], indent=2), flush=True)
        failed += bool(section["counts"].get("failures"))
        if asked.write:
            machine.write_result(RESULT, {"harnesses": before() | {name: section}})
    return 1 if failed else 0


def harnesses() -> list[str]:
    """The names of the harnesses: the modules of this package that have `run` and `COUNT`."""
    names = sorted(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return [name for name in names if name != "__main__" and _is_harness(name)]


def counted(name: str, count: int | None, seed: int) -> dict[str, Any]:
    """What one harness counted, with how, when and on what."""
    harness, started = _module(name), time.perf_counter()
    count = harness.COUNT if count is None else count
    counts = harness.run(count, seed)
    here = machine.describe()
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": here["commit"],
        "uncommitted_changes": here["uncommitted_changes"],
        "count": count,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return {"about": about, "counts": counts}


def before() -> dict[str, Any]:
    """The sections of earlier runs."""
    path = machine.RESULTS / f"{RESULT}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["harnesses"]) if path.exists() else {}


def _is_harness(name: str) -> bool:
    # By its text: importing them all to list them would cost seconds.
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return "\ndef run(" in text and "\nCOUNT" in text


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.faults.{name}")


if __name__ == "__main__":
    sys.exit(main())
