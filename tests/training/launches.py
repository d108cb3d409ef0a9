"""The two launches that tests of several processes look at: one of two processes, one of three, with all their jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.training.several import Jobs, do, launch, once

MODULE = "tests.training.ranks_jobs"
METHODS = ("lora", "adalora", "bottleneck", "prefix")
CUT: dict[str, Any] = {
    "kind": "trained", "epochs": 3, "gradient_accumulation_steps": 2, "tested": 0, "keep_best": False,
}  # fmt: skip
"""27 rows in steps of 4 rows x 2 forwards x 2 processes."""
OTHERS: dict[str, dict[str, Any]] = {
    "causal": {"method": "lora", "family": "llama", "task": "causal"},
    "seq2seq": {"method": "lora", "family": "t5", "task": "seq2seq"},
    "shared blocks": {"method": "lora", "family": "albert"},
    "tags": {"method": "bottleneck", "family": "distilbert", "task": "tokens"},
    "head": {"method": "head"},
    "deep": {"method": "lora", "gradient_checkpointing": True, "mixed_precision": "bf16"},
    "kept trunk": {"method": "lora", "knobs": {"top": 1}, "cache_trunk": True, "tested": 1},
}
"""What is sharded besides: other shapes of backbones, and knobs that meet it."""
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
SAVING = {**CUT, "method": "lora", "save_every": 2, "keep_last": 50}
RESUMED = {**CUT, "method": "lora"}
SIZES = [1, 2, 5, 9]
AT = "checkpoint-00000003"


def twice(job: dict[str, Any]) -> dict[str, Any]:
    """The same job for one process in place of two."""
    return {**job, "batch_size": 8}


def single(factory: Any) -> dict[str, Any]:
    """One process, in this one: a run with checkpoints, and the answers that two processes are compared with."""

    def make(place: Path) -> dict[str, Any]:
        jobs: Jobs = {f"{method}": twice({**CUT, "method": method}) for method in METHODS}
        jobs |= {name: twice({**CUT, "tested": 5, **job}) for name, job in OTHERS.items()}
        jobs["saving"] = {**twice(SAVING), "save_every": 3, "output_dir": str(place / "runs")}
        return {**do(MODULE, jobs), "place": str(place)}

    return once(factory, "one", make)


def two(factory: Any) -> dict[str, Any]:
    """Two processes; what each made of each job, and where they wrote."""

    def make(place: Path) -> dict[str, Any]:
        from_one = Path(single(factory)["place"]) / "runs" / AT
        sharded = {"sharding": "fsdp2"}
        jobs: Jobs = {method: {**CUT, "tested": 5, "method": method} for method in METHODS}
        jobs |= {f"{method}, sharded": {**job, **sharded} for method, job in jobs.items()}
        jobs["lora, sharded"]["save"] = str(place / "adapter")
        jobs |= {f"{name}, sharded": {**CUT, "tested": 5, **job, **sharded} for name, job in OTHERS.items()}
        jobs["broken"] = {"kind": "broken", **sharded}
        jobs["lost"] = {"kind": "broken", "alone": True, **sharded}
        job = {**CUT, "method": "lora"}
        jobs["launched"] = {**job, "kind": "launched", "environment": FSDP}
        jobs["old"] = {**job, "kind": "launched", "environment": {**FSDP, "FSDP_VERSION": "1"}}
        jobs["offloading"] = {**job, "kind": "launched", "environment": {**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}}
        jobs["saving"] = {**SAVING, "save_every": 3, "output_dir": str(place / "runs"), **sharded}
        jobs["from one"] = {**twice(RESUMED), "resume": str(from_one)}
        jobs["evaluated"] = {"kind": "evaluated", "sizes": SIZES}
        jobs["benchmark"] = {"kind": "benchmarks.gpu:run", "device": "cpu", "tiny": True, "repeats": 1}
        jobs["evaluated, sharded"] = {"kind": "evaluated", "sizes": SIZES[:2], **sharded}
        return {"ranks": launch(place / "answers", MODULE, jobs), "place": str(place)}

    return once(factory, "two", make)


def three(factory: Any) -> dict[str, Any]:
    """Three processes, which go on with a run of two; they go on with theirs after one more checkpoint."""

    def make(place: Path) -> dict[str, Any]:
        from_two = str(Path(two(factory)["place"]) / "runs" / AT)
        saving = {"save_every": 2, "output_dir": str(place / "runs")}
        jobs: Jobs = {
            "from two": {**RESUMED, "resume": from_two, **saving},
            "from two, sharded": {**RESUMED, "resume": from_two, "sharding": "fsdp2"},
            "few": {**CUT, "method": "lora", "rows": 10, "batch_size": 3, "gradient_accumulation_steps": 1},
            "evaluated": {"kind": "evaluated", "sizes": SIZES},
        }
        return {"ranks": launch(place / "answers", MODULE, jobs, 3), "place": str(place)}

    return once(factory, "three", make)
