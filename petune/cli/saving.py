"""What is left of a fit on the command line: the adapter's folder, its settings in it, and the words of its outcome."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import petune
from petune.cli.recipe import Recipe
from petune.cli.sections import DEFAULTS, OWN, own_knobs, section_knobs
from petune.cli.yaml_writing import text_of
from petune.storage.atomic import write_file

if TYPE_CHECKING:
    from petune import Tuner

SETTINGS = "run.yaml"
"""The settings of a fit, beside its adapter."""


def save(tuner: Tuner, recipe: Recipe) -> Path:
    """Writes the adapter's folder, and the settings into it."""
    folder = tuner.save(recipe.settings["out"])
    write_file(folder / SETTINGS, settings_text(recipe).encode())
    return folder


def settings_text(recipe: Recipe) -> str:
    """The resolved settings as a file that `petune fit -c` takes."""
    head = [
        f"The settings of a fit by petune {petune.__version__}, every default written out.",
        "petune fit -c takes it.",
    ]
    return text_of(recipe.settings, {}, head)


def commented(settings: dict[str, Any]) -> str:
    """The settings as a file in which a line above each knob tells of it."""
    told = {knob.path: knob.help for knob in own_knobs()}
    for section in DEFAULTS:
        name = settings[section]["name"]
        told[section,] = f"The {section}; petune init --{section} NAME writes the knobs of another one."
        told |= {knob.path: knob.help for knob in section_knobs(section, name)}
    first = own_knobs()[len(OWN)].path
    told[first] = f"From here on: the knobs of fitting. {told[first].capitalize()}"
    return text_of(settings, told, ["A run for petune: petune fit -c FILE. What is left out has the value shown here."])


def outcome(tuner: Tuner, folder: Path, *, as_json: bool, shown: bool = False) -> str:
    """What is printed when all went well.

    Args:
        shown: the run has told of itself on stderr.
    """
    report = tuner.report
    if not as_json:
        # On one terminal the table of the run stands right above.
        seen = shown and sys.stdout.isatty() and sys.stderr.isatty()
        return f"Saved {folder}" if seen else f"{report}\nSaved {folder}"
    story = json.loads(report.to_json())
    return json.dumps({"folder": str(folder), "name": tuner.name, **{k: v for k, v in story.items() if k != "history"}})
