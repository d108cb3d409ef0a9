"""The recipe of an adapter: method and task, by name and knobs, made as the loader makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from petune import lookup
from petune.doctor.chart import Chart
from petune.errors import PetuneError


def check(chart: Chart, file: str, made: Mapping[str, Any]) -> None:
    """Notes a method or task that is not installed here, or that does not take its knobs.

    Args:
        file: the file that says so, for the findings.
        made: the manifest.
    """
    for room in ("methods", "tasks"):
        part = room.rstrip("s")
        name, knobs = made[part]["name"], dict(made[part]["knobs"])
        # A class of another module is never imported because a file names it.
        if name not in lookup.names(room):
            known = lookup.near(name, lookup.names(room))
            chart.error("unknown-name", file, f"No {part} {name!r} is installed here.", f"{part}.name", known)
            continue
        if part == "task":
            knobs["labels"] = tuple(made["labels"])
        try:
            cls = lookup.find(room, name)
            getattr(cls, "from_knobs", lambda given, cls=cls: cls(**given))(knobs)
        except (PetuneError, TypeError, ValueError, KeyError, AttributeError) as error:
            chart.error("bad-knobs", file, f"{part} {name!r}: {error}", f"{part}.knobs", "Save the adapter again.")
