"""One arm of a comparison in a process of its own, so that its time and its memory are its own.

All arms start from the same state: a fresh process, forked from a server that has imported the libraries and done
nothing else (where forking is not possible, it is started anew). What an arm before it left in memory is not there.
"""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from petune import SequenceClassification, TrainConfig, Tuner
from petune.lookup import name_of

THREADS = 2
MAX_LENGTH = 64
SAMPLE = 32
"""Test rows whose probabilities are handed back, for whoever loads the saved adapter elsewhere."""
MEGABYTE = 1 << 20
PRELOADED = ["petune.tuner", "petune.metrics.base", "sklearn.metrics", "seqeval.metrics", "benchmarks.compare"]


class Job(NamedTuple):
    """What one arm does.

    Args:
        name: of the adapter.
        method: a name or an instance.
        folder: where the adapter is saved.
        parts: rows as `{"train", "test"}`.
    """

    name: str
    method: Any
    backbone: str
    folder: Path
    parts: dict[str, list[dict[str, Any]]]
    learning_rate: float
    progress: Any = "auto"


def apart(job: Job) -> dict[str, Any]:
    """`measured` in a process of its own."""
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    if kind == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, job).result()


def measured(job: Job) -> dict[str, Any]:
    """Trains for one epoch, reads the test part once, saves, and tells what it took."""
    torch.set_num_threads(THREADS)
    libraries = psutil.Process().memory_info().rss / MEGABYTE
    task = SequenceClassification(max_length=MAX_LENGTH)
    tuner = Tuner(job.backbone, task=task, method=job.method, name=job.name)
    config = TrainConfig(epochs=1, learning_rate=job.learning_rate, progress=job.progress)
    report = tuner.fit(job.parts["train"], config=config).report
    peak = peak_megabytes()
    figures = tuner.evaluate(job.parts["test"])
    folder = tuner.save(job.folder)
    backbone = sum(parameter.numel() for parameter in tuner.backbone.model.parameters())
    trained = report.trainable_parameters
    private = tuner.method.residence == "private"
    return {
        "name": job.name,
        "method": name_of("methods", tuner.method),
        "learning_rate": job.learning_rate,
        "epochs": 1,
        "trainable_parameters": trained,
        "trainable_share": 1.0 if private else trained / (backbone + trained),
        "accuracy": figures["accuracy"],
        "seconds": report.seconds,
        "tokens_per_second": report.tokens_per_second,
        "peak_memory_megabytes": peak,
        "libraries_megabytes": libraries,
        "bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "folder": str(folder),
        "sample": tuner.predict_proba(sample(job.parts)).tolist(),
    }


def sample(parts: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The texts whose probabilities an arm hands back."""
    return [row["text"] for row in parts["test"][:SAMPLE]]


def peak_megabytes() -> float:
    """The largest resident memory of this process so far: Python, libraries, backbone and training together."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MEGABYTE
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / MEGABYTE if sys.platform == "darwin" else largest / 1024
