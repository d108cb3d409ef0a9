"""Paused runs: one checkpoint, and the folder of a run that holds several."""

from __future__ import annotations

from pathlib import Path

from petune.doctor import tensors
from petune.doctor.chart import Chart
from petune.doctor.diagnosis import Diagnosis
from petune.doctor.surroundings import look_around
from petune.errors import CheckpointError
from petune.storage import checkpoint


def examine_checkpoint(folder: Path) -> Diagnosis:
    """Whether a checkpoint is whole: every byte of it is verified."""
    chart = Chart(folder)
    look_around(chart)
    try:
        found = checkpoint.read(folder)
    except CheckpointError as error:
        file = next((name for name in (checkpoint.TENSORS, checkpoint.STATE) if name in error.what), "")
        cause = " ".join(part for part in (error.what, error.expected) if part)
        chart.error("damaged-checkpoint", file, cause, fix=error.fix)
        return chart.diagnosis("checkpoint")
    training, identity = found.state.get("training", {}), found.state.get("identity", {})
    chart.facts |= {
        "step": found.step,
        "epoch": found.state.get("epoch"),
        "method": (identity.get("method") or {}).get("name"),
        "task": (identity.get("task") or {}).get("name"),
        "processes": identity.get("processes"),
        "versions": training.get("versions"),
    }
    tensors.describe(chart, found.tensors)
    tensors.check_finite(chart, checkpoint.TENSORS, found.tensors)
    return chart.diagnosis("checkpoint")


def examine_run(chart: Chart) -> None:
    """Which checkpoints of a run are whole, and where it would go on."""
    paths = checkpoint.found(chart.folder)
    chart.inside += [examine_checkpoint(path) for path in paths]
    whole = [one.facts["step"] for one in chart.inside if "step" in one.facts]
    chart.facts |= {
        "checkpoints": len(paths),
        "newest": paths[-1].name,
        "newest_whole": next((one.folder.name for one in reversed(chart.inside) if "step" in one.facts), None),
        "resumes_after_step": max(whole, default=None),
    }
    if not whole:
        chart.error(
            "no-whole-checkpoint",
            "",
            f"None of the {len(paths)} checkpoints is whole, so the run cannot go on.",
            fix="Remove them to start afresh, or take another output_dir.",
        )
