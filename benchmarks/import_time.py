"""Question: what does the import cost that a program begins with?

    python -m benchmarks.import_time                # a few minutes, in fresh processes
    python -m benchmarks.import_time --repeats 1    # a check that it runs: nothing is written

CPU seconds of the process and the megabytes it holds, above those of a Python that imports nothing; medians, the
imports in turns, the first round dropped (it fills the disk cache). The result goes to
benchmarks/results/import_time.json and import_time.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import bars, machine
from benchmarks.serving.tables import number
from benchmarks.serving.timing import rotated

IMPORTS = {
    "nothing": "",
    "petune": "import petune",
    "petune, Tuner": "from petune import Tuner",
    "transformers, Trainer": "from transformers import Trainer",
    "peft": "import peft",
    "peft and Trainer": "import peft; from transformers import Trainer",
}
TELL = (
    "\nimport time, json\nspent = time.process_time()\nimport psutil\n"
    "print(json.dumps([spent, psutil.Process().memory_info().rss / 2**20]))"
)
FEWEST = 5


def main(words: list[str] | None = None) -> None:
    """Measures, prints the table, and writes what is a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args(words)
    result = run(asked.repeats)
    if asked.repeats >= FEWEST:
        machine.write_result("import_time", result)
        (machine.RESULTS / "import_time.svg").write_text(picture(result), encoding="utf-8")
    print(table(result))


def run(repeats: int, imports: dict[str, str] | None = None) -> dict[str, Any]:
    """CPU seconds and megabytes of every import, as JSON."""
    imports = IMPORTS if imports is None else imports
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in imports}
    for turn in range(repeats + 1):
        for name in rotated(list(imports), turn):
            found = once(imports[name])
            if turn:
                runs[name].append(found)
    middle = {
        name: [statistics.median(figures) for figures in zip(*found, strict=True)] for name, found in runs.items()
    }
    seconds, megabytes = middle["nothing"]
    return {
        "repeats": repeats,
        "imports": {
            name: {"statement": imports[name], "cpu_seconds": max(own[0] - seconds, 0.0),
                   "megabytes": max(own[1] - megabytes, 0.0)}
            for name, own in middle.items() if name != "nothing"
        },
        "runs": runs,
    }  # fmt: skip


def once(statement: str) -> tuple[float, float]:
    """CPU seconds of a fresh process up to the end of the statement, and megabytes that it then holds."""
    done = subprocess.run(
        [sys.executable, "-c", statement + TELL], cwd=machine.ROOT, capture_output=True, text=True, check=True
    )
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes


def table(result: dict[str, Any]) -> str:
    """One row per import."""
    lines = ["| statement | CPU seconds | memory, MB |", "|---|---:|---:|"]
    for found in result["imports"].values():
        lines.append(f"| `{found['statement']}` | {number(found['cpu_seconds'])} | {found['megabytes']:,.0f} |")
    return "\n".join(lines)


def picture(result: dict[str, Any]) -> str:
    """CPU seconds of every import."""
    seconds = {name: found["cpu_seconds"] for name, found in result["imports"].items()}
    return bars.drawn("Importing: CPU seconds", seconds)


if __name__ == "__main__":
    main()
