"""Knobs: frozen keyword-only dataclasses that check what they are given, and know the near name of a wrong one."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import types
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from petune.errors import ConfigError
from petune.lookup import near

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def knobs(cls: type[T]) -> type[T]:
    """A frozen keyword-only dataclass that answers an unknown keyword with the nearest known one.

    What is given is also checked against the annotations: whole and finite numbers, strings, words of a `Literal`,
    lists (kept as tuples) and mappings. Other annotations are the business of the class.

    Examples:
        >>> @knobs
        ... class Kettle:
        ...     litres: float = 1.0
        >>> Kettle(liters=2)
        Traceback (most recent call last):
        petune.errors.ConfigError: Kettle has no knob 'liters'. Did you mean 'litres'?
    """
    made: Any = dataclass(frozen=True, kw_only=True)(cls)
    plain = made.__init__

    @functools.wraps(plain)
    def init(self: Any, **given: Any) -> None:
        known = [field.name for field in dataclasses.fields(made) if field.init]
        for key in given:
            if key not in known:
                raise ConfigError(f"{type(self).__name__} has no knob {key!r}.", fix=near(key, known))
        hints = _annotations(made)
        plain(self, **{name: _as_annotated(name, value, hints.get(name, Any)) for name, value in given.items()})

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def check(ok: bool, name: str, value: object, expected: str) -> None:
    """Refuses a knob that is out of range.

    Raises:
        ConfigError: when `ok` is false.
    """
    if not ok:
        raise ConfigError(f"{name}={value!r} is out of range.", expected=f"It must be {expected}.")


class _Kind(NamedTuple):
    """What a value of an annotation is called, how it is known, and what it is kept as."""

    words: str
    fits: Callable[[Any], bool]
    kept: Callable[[Any], Any] = lambda value: value


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | Set)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


_KINDS: dict[Any, _Kind] = {
    types.NoneType: _Kind("None", lambda value: value is None),
    bool: _Kind("True or False", lambda value: isinstance(value, bool)),
    int: _Kind("a whole number", _is_whole, int),
    float: _Kind("a finite number", _is_finite, float),
    str: _Kind("a string", lambda value: isinstance(value, str)),
    Path: _Kind("a path", lambda value: isinstance(value, os.PathLike)),
    tuple: _Kind("a list", _is_list, tuple),
    dict: _Kind("a mapping", lambda value: isinstance(value, Mapping)),
    Mapping: _Kind("a mapping", lambda value: isinstance(value, Mapping)),
}


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
    """The annotations as types; none where one names something that only a type checker knows."""
    try:
        return get_type_hints(cls)
    except NameError:
        return {}


def _as_annotated(name: str, value: Any, hint: Any) -> Any:
    """The value of a knob in the form of its annotation; what an annotation of no known kind takes is left alone.

    Raises:
        ConfigError: with the name of the knob, and what it takes.
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    words = tuple(word for option in options if get_origin(option) is Literal for word in get_args(option))
    kinds = [get_origin(option) or option for option in options if get_origin(option) is not Literal]
    if (isinstance(value, str) and value in words) or not all(kind in _KINDS for kind in kinds):
        return value
    for kind in kinds:
        if _KINDS[kind].fits(value):
            return _KINDS[kind].kept(value)
    if words and set(kinds) <= {types.NoneType}:
        choose(name, value, words)
    takes = " or ".join([*map(repr, words), *dict.fromkeys(_KINDS[kind].words for kind in kinds)])
    lone = tuple in kinds and not words and isinstance(value, str)
    raise ConfigError(
        f"{name}={value!r} does not fit.",
        expected=f"It must be {takes}.",
        fix=f"Pass {name}=({value!r},)." if lone else "",
    )


def choose(name: str, value: object, options: tuple[str, ...]) -> None:
    """Refuses a knob that is none of its options, with the near one.

    Raises:
        ConfigError: when `value` is none of `options`.
    """
    if value not in options:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(options)}.", fix=near(str(value), options))
