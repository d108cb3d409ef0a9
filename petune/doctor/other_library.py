"""An adapter of the `adapters` library (AdapterHub): recognised and told apart from peft's, which petune reads.

Both call their configuration `adapter_config.json`. AdapterHub's has a `config` and the `model_type` it was made for in
place of peft's `peft_type`, and its weights lie in `adapter.safetensors` or `pytorch_adapter.bin`.
Source: https://github.com/adapter-hub/adapters, src/adapters/utils.py and loading.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from petune.doctor.chart import Chart
from petune.storage import container

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter.safetensors", "model_head.safetensors", "pytorch_adapter.bin", "pytorch_model_head.bin")


def is_adapterhub(said: Mapping[str, Any]) -> bool:
    """Whether a configuration is AdapterHub's.

    Example:
        >>> is_adapterhub({"config": {"reduction_factor": 16}, "model_type": "bert", "version": "adapters.1.2.0"})
        True
        >>> is_adapterhub({"peft_type": "LORA", "r": 8})
        False
    """
    return "peft_type" not in said and "config" in said and ("model_type" in said or "model_class" in said)


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
    chart.error(
        "other-format",
        CONFIG,
        "An adapter of the library 'adapters' (AdapterHub), which neither petune nor peft reads.",
        "config",
        "Load it with the library that wrote it, or train it again with petune.",
    )
    for name in WEIGHTS[:2]:
        if (chart.folder / name).exists():
            data = chart.bytes_of(name)
            if data is not None:
                chart.attempt("broken-container", name, partial(container.header, data, str(chart.folder / name)))
