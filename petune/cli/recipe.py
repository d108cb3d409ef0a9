"""A recipe: everything that a fit is called with, from a file, from options, or from both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petune.cli import yaml_file
from petune.cli.knob_list import Knob
from petune.cli.knob_options import Given, named
from petune.cli.sections import DEFAULTS, OWN, SECTIONS, own_knobs, section_knobs
from petune.cli.usage import UsageError, as_usage
from petune.config import TrainConfig
from petune.errors import ConfigError, PetuneError
from petune.lookup import find, names

if TYPE_CHECKING:
    from petune import Tuner

_MISSING = {"train": "No training rows were given.", "model": "No backbone was given.", "out": "No folder was given."}
_NAMED = re.compile(r"(\w+)=|.*has no knob '(\w+)'")


@dataclass(frozen=True)
class Recipe:
    """What a fit is called with.

    Args:
        settings: every key and knob with its value, as JSON; sections have their name in them.
        task, method, config: what the settings make.
    """

    settings: dict[str, Any]
    task: Any
    method: Any
    config: TrainConfig

    def need(self, *keys: str) -> None:
        """Passes when these keys have values.

        Raises:
            UsageError: with the option and the line of the file that would give it one.
        """
        for key in keys:
            if self.settings[key] is None:
                option = "the path of the rows" if key == "train" else f"--{key}"
                raise UsageError(_MISSING[key], fix=f"Give {option}, or `{key}: ...` in the file of -c.")

    def need_place(self) -> None:
        """Passes when the adapter can be saved where it is to be, before anything is trained for it.

        Raises:
            UsageError: there is a file in its place.
        """
        out = Path(self.settings["out"])
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out} is a file.", fix="Name a folder, which need not exist.")

    def tuner(self) -> Tuner:
        """A fresh tuner."""
        from petune import Tuner

        keys = ("tokenizer", "quantize")
        return Tuner(
            self.settings["model"], task=self.task, method=self.method, name=self.adapter_name(),
            **{key: self.settings[key] for key in keys},
        )  # fmt: skip

    def adapter_name(self) -> str:
        """The name that was given, or the last part of the folder."""
        out = self.settings["out"]
        return str(self.settings["name"] or (Path(out).name if out else "") or "default")


def knobs_by(words: Sequence[str]) -> list[Knob]:
    """The knobs that the words of a call can turn: those of fitting, and of the task and the method that they name."""
    chosen = dict(DEFAULTS)
    file = named(words, "-c", "--config")
    if file is not None and Path(file).is_file():
        # A name that nothing answers to is told later, with its line.
        inside = chosen_by(yaml_file.read(file)[0])
        chosen |= {section: name for section, name in inside.items() if name in names(SECTIONS[section])}
    chosen |= {section: name for section in SECTIONS if (name := named(words, f"--{section}"))}
    sections = [knob for section, name in chosen.items() for knob in section_knobs(section, name)]
    return [*own_knobs()[len(OWN) :], *sections]


def chosen_by(raw: Mapping[str, Any]) -> dict[str, str]:
    """Section -> the name that a file has in it."""
    found = {section: raw.get(section) for section in SECTIONS}
    said = {key: value.get("name") if isinstance(value, Mapping) else value for key, value in found.items()}
    return {section: name for section, name in said.items() if isinstance(name, str)}


def recipe_of(file: str | Path | None, given: Mapping[str, Any], knobs: Given) -> Recipe:
    """A recipe from a file, over which options win.

    Args:
        file: YAML, or None.
        given: own keys, and the names of task and method, as options; None: not given.
        knobs: the knobs that were given as options.

    Raises:
        UsageError: a mistake, with its line where it stands in the file.
    """
    raw, lines = yaml_file.read(file) if file is not None else ({}, {})
    if file is not None:
        _check(raw, lines, Path(file))
    chosen = {**DEFAULTS, **chosen_by(raw), **{key: given[key] for key in SECTIONS if given.get(key)}}
    values = {key: _section(raw.get(key), name) for key, name in chosen.items()}
    values = {**{key: value for key, value in raw.items() if key not in SECTIONS}, **values}
    values |= {key: value for key, value in given.items() if value is not None and key not in SECTIONS}
    for path, value in knobs.items():
        if len(path) == 1:
            values[path[0]] = value
        else:
            values[path[0]][path[1]] = value
    return _made(values, lambda section, error: _located(error, section, lines, file, knobs))


def _check(raw: Mapping[str, Any], lines: Mapping[yaml_file.Place, int], path: Path) -> None:
    """Raises UsageError for a file whose form is wrong, with a line for each mistake."""
    from petune.cli.schema import mistakes

    chosen = {**DEFAULTS, **chosen_by(raw)}
    for section, name in chosen.items():
        try:
            section_knobs(section, name)
        except UsageError as error:
            raise as_usage(error, f"{path}:{_line((section, 'name'), lines)}: ") from error
    found = sorted((_line(place, lines), said) for place, said in mistakes(raw, chosen))
    if found:
        raise UsageError("\n".join(f"{path}:{line}: {said}" for line, said in found))


def _section(raw: Any, name: str) -> dict[str, Any]:
    """The knobs of a section; those that a file has for another name do not count."""
    same = isinstance(raw, Mapping) and raw.get("name", name) == name
    return {**(raw if same else {}), "name": name}


def _made(values: dict[str, Any], fail: Any) -> Recipe:
    made: dict[str, Any] = {}
    for section, room in SECTIONS.items():
        knobs = {key: value for key, value in values[section].items() if key != "name"}
        try:
            made[section] = find(room, values[section]["name"])(**knobs)
        except ConfigError as error:
            raise fail(section, error) from error
    own = {knob.path[0] for knob in OWN}
    fitting = {key: value for key, value in values.items() if key not in own and key not in SECTIONS}
    try:
        config = TrainConfig(**fitting)
    except ConfigError as error:
        raise fail(None, error) from error
    settings = {knob.path[0]: values.get(knob.path[0]) for knob in OWN}
    settings |= {section: {"name": values[section]["name"], **_values(made[section])} for section in SECTIONS}
    return Recipe({**settings, **_values(config)}, made["task"], made["method"], config)


def _values(thing: Any) -> dict[str, Any]:
    """The knobs of a method, a task or a configuration, as JSON."""
    to_knobs = getattr(thing, "to_knobs", None)
    return dict(to_knobs()) if to_knobs else {one.name: _plain(getattr(thing, one.name)) for one in fields(thing)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _located(error: PetuneError, section: str | None, lines: Mapping[Any, int], file: Any, knobs: Given) -> UsageError:
    """The error with the line of the knob that it names, where that stands in the file and no option replaced it."""
    match = _NAMED.match(error.what)
    knob = (match[1] or match[2]) if match else None
    place = tuple(part for part in (section, knob) if part)
    if file is None or place in knobs or (knob and place not in lines) or not place:
        return as_usage(error)
    return as_usage(error, f"{file}:{_line(place, lines)}: ")


def _line(place: Sequence[Any], lines: Mapping[Any, int]) -> int:
    """The line of a place; of what is around it, where it has none of its own."""
    while tuple(place) not in lines and place:
        place = place[:-1]
    return lines.get(tuple(place), 1)
