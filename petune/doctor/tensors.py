"""What the doctor asks of tensors, whoever wrote them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from petune.doctor.chart import Chart


def describe(chart: Chart, named: Mapping[str, Tensor]) -> None:
    """Notes how many weights there are, and of which types."""
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in named.values()})
    weights = sum(tensor.numel() for tensor in named.values())
    chart.facts |= {"weights": weights, "tensors": len(named), "dtypes": types}


def check_finite(chart: Chart, file: str, named: Mapping[str, Tensor]) -> None:
    """Notes every tensor with NaN or infinity in it."""
    for name, tensor in named.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            chart.error(
                "not-finite",
                file,
                f"{bad} of {tensor.numel()} values are NaN or infinite.",
                name,
                "Take the last good checkpoint, or train again with a smaller learning rate.",
            )


def note_untrained(chart: Chart, file: str) -> None:
    """Notes that an adapter changes nothing."""
    chart.add(
        "warning",
        "untrained",
        file,
        "The last map of every site is zero, so the adapter changes nothing in the backbone.",
        fix="Train it, or check that the right one was saved.",
    )
