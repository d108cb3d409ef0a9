"""What a run's file, and the options of a fit, consist of: its own keys, the knobs of fitting, and two sections."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from petune.cli.knob_list import Knob, knobs_of
from petune.cli.usage import as_usage
from petune.config import TrainConfig
from petune.errors import UnknownNameError
from petune.lookup import find

SECTIONS = {"task": "tasks", "method": "methods"}
"""Section of a file -> the room in which its name is looked up."""
DEFAULTS = {"task": "sequence-classification", "method": "lora"}
OWN = (
    Knob(("train",), str, None, "the training rows: a csv, tsv, jsonl, json, parquet or CoNLL file.", ""),
    Knob(("eval_data",), float | str | None, None, "the same for evaluation, or the share of rows to hold out.", ""),
    Knob(("model",), str | Path | None, None, "the frozen backbone: a folder or a hub id.", ""),
    Knob(("tokenizer",), str | Path | None, None, "in place of the one that lies beside the backbone.", ""),
    Knob(("quantize",), Literal["4bit", "8bit"] | None, None, "pack the frozen weights by bitsandbytes.", ""),
    Knob(("name",), str | None, None, "of the adapter; null: the last part of `out`.", ""),
    Knob(("out",), str | Path | None, None, "the folder in which the adapter is saved.", ""),
    Knob(("processes",), int | None, None, "to launch on this machine, one per GPU where there are any.", ""),
)
"""The keys that are no knob of a dataclass."""


def own_knobs() -> list[Knob]:
    """The keys at the top of a file: its own, then the knobs of fitting."""
    return [*OWN, *knobs_of(TrainConfig, room="fitting")]


@functools.cache
def section_knobs(section: str, name: str) -> tuple[Knob, ...]:
    """The knobs of a method or a task.

    Raises:
        UsageError: nothing answers to the name.
    """
    try:
        cls = find(SECTIONS[section], name)
    except UnknownNameError as error:
        raise as_usage(error) from error
    return tuple(knobs_of(cls, (section,), room=f"the {section} {name}"))
