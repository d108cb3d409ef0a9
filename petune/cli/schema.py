"""The form of a run's file, as pydantic models made from the dataclasses: they check it, and give its JSON Schema."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from petune.cli.knob_list import Knob
from petune.cli.sections import SECTIONS, own_knobs, section_knobs
from petune.cli.yaml_file import Place
from petune.lookup import names, near

_FORM = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())


def file_model(chosen: Mapping[str, Sequence[str]]) -> type[BaseModel]:
    """The model of a file.

    Args:
        chosen: section -> the names that may stand in it, such as `{"method": ["lora"], "task": [...]}`.
    """
    fields = _fields(own_knobs())
    for section, room in SECTIONS.items():
        models = [_section(section, name) for name in chosen[section]]
        by_name = Literal[tuple(chosen[section])]  # type: ignore[valid-type]
        told = f"A name alone, or a section with the name and the knobs of the {room.removesuffix('s')}."
        fields[section] = (Union[(by_name, *models)], Field(None, description=told))
    return _model("Run", fields)


def mistakes(raw: Mapping[str, Any], chosen: Mapping[str, str]) -> list[tuple[Place, str]]:
    """What is wrong in the form of a file: (place, sentence), in the order of the file's sections.

    Args:
        raw: the file's values; its sections may be names alone.
        chosen: section -> the name in it.
    """
    whole = {key: value for key, value in raw.items() if not (key in SECTIONS and isinstance(value, str))}
    try:
        file_model({section: [name] for section, name in chosen.items()}).model_validate(whole)
    except ValidationError as error:
        return _sentences(error, raw, chosen)
    return []


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a run's file, with every method and task that is installed, for editors."""
    found = file_model({section: names(room) for section, room in SECTIONS.items()}).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "A run of petune"}


def _section(section: str, name: str) -> type[BaseModel]:
    fields = _fields(section_knobs(section, name))
    fields["name"] = (Literal[name], ...)  # type: ignore[valid-type]
    return _model(f"{section}_{name}".replace("-", "_"), fields)


def _fields(knobs: Sequence[Knob]) -> dict[str, Any]:
    return {knob.path[-1]: (knob.hint, Field(_plain(knob.default), description=knob.help)) for knob in knobs}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _model(name: str, fields: dict[str, Any]) -> type[BaseModel]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a knob may have the name of one of pydantic's own methods
        return create_model(name, __config__=_FORM, **fields)


def _sentences(error: ValidationError, raw: Mapping[str, Any], chosen: Mapping[str, str]) -> list[tuple[Place, str]]:
    """One sentence for each place; what a union says of each of its members is one sentence."""
    found: dict[Place, list[str]] = {}
    inner = {section: [knob.path[-1] for knob in section_knobs(section, name)] for section, name in chosen.items()}
    top = [knob.path[0] for knob in own_knobs()] + list(SECTIONS)
    known: dict[Place, list[str]] = {
        (): top + [f"{section}.{knob}" for section, knobs in inner.items() for knob in knobs]
    }
    known |= {(section,): knobs for section, knobs in inner.items()}
    for one in error.errors(include_url=False):
        if one["type"] == "literal_error" and str(one["loc"][-1]).startswith("literal[") and one["loc"][0] in SECTIONS:
            continue  # that the section is no name alone
        place = _place(one["loc"], raw)
        if one["type"] == "extra_forbidden":
            said = f"there is no knob {place[-1]!r} here. {near(str(place[-1]), known.get(place[:-1], []))}"
        else:
            said = f"{_at(raw, place)!r} does not fit: {one['msg'][:1].lower()}{one['msg'][1:]}"
        found.setdefault(place, []).append(said)
    return [(place, _joined(said)) for place, said in found.items()]


def _joined(said: list[str]) -> str:
    first, *rest = dict.fromkeys(said)
    return " or ".join([first, *(one.partition(" does not fit: ")[2] or one for one in rest)])


def _place(loc: tuple[str | int, ...], raw: Any) -> Place:
    """Where an error lies in the file: pydantic also names the members of a union on the way."""
    place: list[str | int] = []
    here = raw
    for part in loc:
        if isinstance(here, Mapping) and part in here:
            place, here = [*place, part], here[str(part)]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            place, here = [*place, part], here[part]
    return tuple(place)


def _at(raw: Any, place: Place) -> Any:
    for part in place:
        raw = raw[part]
    return raw
