"""What a number was measured on, and where it is written: every result says machine, versions and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("petune", "torch", "transformers", "peft", "accelerate", "numpy")


def describe() -> dict[str, Any]:
    """The machine, the versions and the commit, as plain JSON values; no host or user names, no paths."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gigabytes": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": _git("rev-parse", "--short=12", "HEAD") or None,
        # Results themselves are no change to what was measured.
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results")),
    }


def write_result(name: str, payload: dict[str, Any]) -> Path:
    """Writes `benchmarks/results/NAME.json`: the payload, the machine and the date (UTC)."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"name": name, "date": datetime.now(UTC).date().isoformat(), **payload, "machine": describe()}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _cpu_model() -> str:
    """Linux tells the model in /proc/cpuinfo; elsewhere the platform's own word has to do."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def _git(*words: str) -> str:
    """What git says about this checkout; nothing outside of one, or without git."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
