"""Manifests of older schemas, brought to the form that is read today, one step at a time.

| schema | what changed |
|---|---|
| 1 | the first |
| 2 | closed: the keys that could be left out are always there, and any other key is an error |

The keys that schema 1 could leave out: `training`, `transposed`, `head_modules`, `backbone.outputs`,
`backbone.quantized`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

SCHEMA = 2
"""The version of the manifest's form that is written."""
Manifest = dict[str, Any]


def migrated(manifest: Mapping[str, Any]) -> Manifest:
    """A manifest in today's form; one of today, of a newer schema or of none comes back as it is.

    Examples:
        >>> migrated({"schema": 1, "backbone": {"prefix": "bert"}})["backbone"]
        {'outputs': None, 'quantized': None, 'prefix': 'bert'}
    """
    made = copy.deepcopy(dict(manifest))
    while type(made.get("schema")) is int and made["schema"] in _STEPS:
        made = {**_STEPS[made["schema"]](made), "schema": made["schema"] + 1}
    return made


def _closed(made: Manifest) -> Manifest:
    """1 -> 2: what a key that was left out had stood for is written down."""
    backbone = made.get("backbone")
    if isinstance(backbone, dict):
        made["backbone"] = {"outputs": None, "quantized": None, **backbone}
    return {"training": {}, "transposed": [], "head_modules": None, **made}


_STEPS: dict[int, Callable[[Manifest], Manifest]] = {1: _closed}
"""Schema -> the step from it to the next."""
