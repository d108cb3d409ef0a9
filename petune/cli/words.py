"""Words of a command line as values of an annotation, and what such a value is called in the help."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_NONE = ("none", "null")


def options_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the annotation itself where it is none.

    Examples:
        >>> options_of(int | None)
        (<class 'int'>, <class 'NoneType'>)
    """
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def share_or_path(text: str | None) -> float | str | None:
    """What `--eval-data` means: a number is the share of rows to hold out, all else a path.

    Examples:
        >>> share_or_path("0.1"), share_or_path("dev.csv")
        (0.1, 'dev.csv')
    """
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def value_of(text: str, hint: Any) -> Any:
    """What a word means for a knob: the words of its `Literal` first, then numbers, lists, and text last.

    Lists are separated by commas, mappings are `name=value,name=value`; both may be JSON as well. `none` is None.

    Raises:
        ValueError: with what was expected.

    Examples:
        >>> from typing import Literal
        >>> value_of("8", int | Literal["auto"]), value_of("auto", int | Literal["auto"])
        (8, 'auto')
        >>> value_of("query,value", tuple[str, ...]), value_of("a=1,b=2", dict[str, int]), value_of("none", int | None)
        (('query', 'value'), {'a': 1, 'b': 2}, None)
    """
    options = options_of(hint)
    if types.NoneType in options and text.lower() in _NONE:
        return None
    for option in options:
        if get_origin(option) is Literal and text in get_args(option):
            return text
    for option in sorted((one for one in options if get_origin(one) is not Literal), key=_rank):
        try:
            return _as(text, option)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is not {called(hint)}.")


def called(hint: Any) -> str:
    """What a value is called in the help.

    Examples:
        >>> called(int | Literal["auto"]), called(tuple[str, ...]), called(float | None)
        ('auto|INTEGER', 'TEXT,...', 'NUMBER|none')
    """
    words = [word for option in options_of(hint) if get_origin(option) is Literal for word in get_args(option)]
    rest = [option for option in options_of(hint) if get_origin(option) is not Literal]
    named = dict.fromkeys(_name(option) for option in rest if option is not types.NoneType)
    return "|".join([*map(str, words), *named, *(["none"] if types.NoneType in rest else [])])


def _as(text: str, kind: Any) -> Any:
    """The word as one kind of value.

    Raises:
        ValueError: it is none.
    """
    origin = get_origin(kind) or kind
    if origin in _PLAIN:
        return _PLAIN[origin](text)
    if origin is tuple or origin is list:
        inner = next(iter(get_args(kind)), Any)
        if text.startswith("["):
            return tuple(_json(text, list))
        return tuple(value_of(word.strip(), inner) for word in text.split(",")) if text else ()
    if origin in (dict, Mapping):
        return _json(text, dict) if text.startswith("{") else _pairs(text, kind)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _pairs(text: str, kind: Any) -> dict[str, Any]:
    inner = get_args(kind)[1] if get_args(kind) else Any
    pairs = [word.partition("=") for word in text.split(",") if word]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(text)
    return {name.strip(): value_of(value.strip(), inner) for name, _, value in pairs}


def _json(text: str, kind: type) -> Any:
    found = json.loads(text)
    if not isinstance(found, kind):
        raise ValueError(text)
    return found


def _bool(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


def _none(text: str) -> None:
    raise ValueError(text)  # the words for None were looked for first


_PLAIN: dict[Any, Callable[[str], Any]] = {
    bool: _bool, int: int, float: float, str: str, Path: Path, types.NoneType: _none,
}  # fmt: skip
_NAMES = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "TEXT"}


def _rank(kind: Any) -> int:
    """Narrow kinds are tried first: every word is a text."""
    origin = get_origin(kind) or kind
    order = (bool, int, float, dict, Mapping, tuple, list)
    return order.index(origin) if origin in order else len(order)


def _name(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if origin is tuple or origin is list:
        return f"{_name(next(iter(get_args(kind)), Any))},..."
    if origin in (dict, Mapping):
        return "NAME=VALUE,..."
    return _NAMES.get(origin, "VALUE")
