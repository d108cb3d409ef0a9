"""An adapter of the `adapters` library (AdapterHub): told apart from peft's, and examined by petune's reader of both.

Both call their configuration `adapter_config.json`. AdapterHub's has a `config` and the `model_type` it was made for in
place of peft's `peft_type`, and its weights lie in `adapter.safetensors` or `pytorch_adapter.bin`.
Source: https://github.com/adapter-hub/adapters, src/adapters/utils.py and loading.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from petune.doctor.chart import Chart
from petune.errors import AdapterFileError
from petune.storage import adapter_file, adapterhub, container
from petune.storage.adapterhub_reading import is_adapterhub

CONFIG = adapterhub.CONFIG
WEIGHTS = (adapterhub.WEIGHTS, adapterhub.HEAD_WEIGHTS, *adapterhub.PICKLES)


def examine(chart: Chart, said: Mapping[str, Any]) -> None:
    """Notes what it is, and whether its containers are whole."""
    inner = said.get("config") if isinstance(said.get("config"), Mapping) else {}
    chart.facts |= {
        "name": said.get("name"),
        "method": (inner or {}).get("architecture") or "bottleneck",
        "reduction_factor": (inner or {}).get("reduction_factor"),
        "rank": (inner or {}).get("r"),
        "backbone": {"id": said.get("model_name"), "model_type": said.get("model_type")},
        "versions": {"adapters": said.get("version")},
    }
    for name in WEIGHTS[:2]:
        if (chart.folder / name).exists():
            data = chart.bytes_of(name)
            if data is not None:
                chart.attempt("broken-container", name, partial(container.header, data, str(chart.folder / name)))
    try:
        adapter_file.read(chart.folder)
    except AdapterFileError as error:
        chart.error(
            "other-format",
            CONFIG,
            f"An adapter of the library 'adapters' (AdapterHub), which petune cannot take over: {error.what}",
            "config",
            "Load it with the library that wrote it, or train it again with petune.",
        )
    else:
        chart.add(
            "note",
            "other-format",
            CONFIG,
            "An adapter of the library 'adapters' (AdapterHub); petune reads it, and peft does not.",
            fix="petune convert writes it as petune's.",
        )


__all__ = ["WEIGHTS", "examine", "is_adapterhub"]
