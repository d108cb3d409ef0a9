"""Writes what was measured into the README and the docs, between markers; a figure gets there in no other way.

    python -m benchmarks.readme                 # tables and output from benchmarks/results/*.json
    python -m benchmarks.readme --quickstart    # first runs the README's own example on real data (a minute or two)

The example runs as it stands in the README, beside `train.csv` and `test.csv` of the rows that the demo uses, with the
real encoder in place of `path/to/backbone`; what it prints goes to benchmarks/results/quickstart.json.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    demo,
    import_time,
    machine,
    planned,
    quality,
    real_data,
    sweep,
    training_memory,
    tutorial_recipe,
)
from benchmarks.faults import tables as faults
from benchmarks.serving import tables
from benchmarks.tasks import tables as tasks
from benchmarks.train_step import tables as train_step

README = machine.ROOT / "README.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
NOTHING = "Not measured yet."


def main() -> None:
    """Fills the pages, after running the README's example if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quickstart", action="store_true", help="run the example and keep its output")
    if parser.parse_args().quickstart:
        run_example(README.read_text(encoding="utf-8"))
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


def pages() -> list[Path]:
    """The README and every page of the docs."""
    return [README, *sorted((machine.ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A page with every marked part made anew."""
    for name, make in PARTS.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start not in text:
            continue
        before, rest = text.split(start)
        text = f"{before}{start}\n{make(result(name.split()[0]))}\n{end}{rest.split(end)[1]}"
    return text


def result(name: str) -> dict[str, Any] | None:
    """A committed result, or None when there is none yet."""
    path = machine.RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def run_example(text: str) -> None:
    """Runs the first code block of the README and writes what it printed as a result."""
    match = BLOCK.search(text)
    assert match, "the README opens with an example"
    code, printed, parts = match[1], io.StringIO(), demo.reviews()
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for name in ("train", "test"):
            write_csv(Path(f"{name}.csv"), parts[name])
        with contextlib.redirect_stdout(printed):
            exec(code.replace("path/to/backbone", str(real_data.encoder_folder())), {"__name__": "__main__"})
    rows = {name: len(parts[name]) for name in ("train", "test")}
    machine.write_result("quickstart", {"code": code, "output": printed.getvalue(), "rows": rows})


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as a csv file with `text` and `label`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)


def quickstart_output(found: dict[str, Any] | None) -> str:
    """What the example printed."""
    if found is None:
        return NOTHING
    return (
        f"```text\n{found['output'].rstrip()}\n```\n\n"
        f"This is what it printed on real data ({found['rows']['train']:,} and {found['rows']['test']:,} movie-review "
        f"snippets, all-MiniLM-L6-v2, {_machine(found)})."
    )


def demo_table(found: dict[str, Any] | None) -> str:
    """The demo's table in Markdown."""
    if found is None:
        return NOTHING
    rows = [demo.COLUMNS, ["---", *["---:"] * (len(demo.COLUMNS) - 1)], *map(demo.cells, found["arms"])]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{found['seconds']:.0f} s in all; {_machine(found)}; seed {found['seed']}."])


def quality_table(found: dict[str, Any] | None) -> str:
    """The quality table in Markdown."""
    if found is None:
        return NOTHING
    return f"{quality.table(found['runs'])}\n\nMeasured on {_machine(found)}."


def measured(table: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any] | None], str]:
    """A table in Markdown, and on what it was measured."""
    return lambda found: NOTHING if found is None else f"{table(found)}\n\nMeasured on {_machine(found)}."


def _machine(found: dict[str, Any]) -> str:
    """On what a result was measured."""
    told = found["machine"]
    versions = ", ".join(f"{name} {told['versions'][name]}" for name in ("torch", "transformers"))
    return f"{told['cpu']}, {told['threads']} threads, {versions}, {found['date']}"


PARTS: dict[str, Callable[[dict[str, Any] | None], str]] = {
    "quickstart output": quickstart_output,
    "demo table": demo_table,
    "quality table": quality_table,
    "serving table": lambda found: NOTHING if found is None else tables.table(found),
    "train_step table": measured(train_step.table),
    "sweep table": measured(sweep.table),
    "tutorial_recipe table": measured(tutorial_recipe.table),
    "training_memory table": measured(training_memory.table),
    "planned table": measured(planned.table),
    "import_time table": measured(import_time.table),
    "faults table": measured(faults.table),
    "tasks table": measured(tasks.table),
}
"""Marker -> what stands there; its first word names the result file."""


if __name__ == "__main__":
    main()
