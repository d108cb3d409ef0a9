"""Question: what do many adapters on one backbone cost, beside peft on the same machine in the same process?

    python -m benchmarks.serving                            # every figure, on two quiet cores
    python -m benchmarks.serving --only routing loading     # some of them; the others stay as they were measured
    python -m benchmarks.serving --repeats 1                # a check that it runs: nothing is written
    python -m benchmarks.serving --only                     # measures nothing, prints the table and draws anew

Each figure is a module of this package, whose docstring says what its arms are. The arms take turns, the answers are
compared before the clock starts, and every figure stands beside its target, met or not. The result goes to
benchmarks/results/serving.json and serving.svg. The exit status is 1 when a figure could not be measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
import warnings
from datetime import UTC, datetime
from typing import Any

import torch
from transformers.utils import logging

from benchmarks import machine, real_data
from benchmarks.serving.plot import drawn
from benchmarks.serving.settings import Settings
from benchmarks.serving.tables import FIGURES, table

FEWEST = 9
"""Repeats below which a run is a check and no result."""


def main(words: list[str] | None = None) -> int:
    """Measures what is asked for; 0 when all of it could be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=FIGURES, nargs="*", default=FIGURES, help="only these figures")
    parser.add_argument("--repeats", type=int, default=Settings.repeats)
    parser.add_argument("--decoder", default="", help="the folder of real_data.decoder_folder, if it was kept")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(words)
    torch.set_num_threads(asked.threads)
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft asks for it
    figures, failed = before(), 0
    settings = Settings(str(real_data.encoder_folder()), asked.decoder, asked.repeats)
    for name in asked.only:
        try:
            figures[name] = measured(name, settings)
        except Exception:  # one figure that cannot be measured keeps no other from it
            traceback.print_exc()
            failed += 1
            continue
        if asked.repeats >= FEWEST:
            machine.write_result("serving", {"figures": figures})
    if figures and asked.repeats >= FEWEST:
        (machine.RESULTS / "serving.svg").write_text(drawn(figures), encoding="utf-8")
    print(table({"figures": figures}))
    return 1 if failed else 0


def before() -> dict[str, Any]:
    """The figures of earlier runs."""
    path = machine.RESULTS / "serving.json"
    return json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else {}


def measured(name: str, settings: Settings) -> dict[str, Any]:
    """One figure, with when and on what it was measured."""
    started, load = time.perf_counter(), os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(f"{name} ...", flush=True)
    found = importlib.import_module(f"benchmarks.serving.{name}").run(settings)
    here = machine.describe()
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": here["commit"],
        "uncommitted_changes": here["uncommitted_changes"],
        "threads": here["threads"],
        "load_before": load,
        "seconds": time.perf_counter() - started,
    }
    return {"about": about, **found}


if __name__ == "__main__":
    sys.exit(main())
