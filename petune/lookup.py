"""Names to classes: the folder is the registry.

`petune/methods/lora.py` *is* the method `"lora"`, `petune/tasks/token_classification.py` is the task
`"token-classification"`. Other packages join by an entry point in the group `petune.methods`,
`petune.tasks` or `petune.metrics`. No list is edited anywhere.
"""

from __future__ import annotations

import bisect
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from petune.errors import UnknownNameError

_LONGEST = 255
"""Characters of a word that is compared: those of the longest name of an adapter."""
_WORK = 2_000_000
"""Pairs of characters that are compared at most: a file may list as many names as it likes, and its error must come."""


def near(word: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known words.

    Examples:
        >>> near("lroa", ["lora", "prefix"])
        "Did you mean 'lora'?"
    """
    options = sorted({str(k) for k in known})
    folded = {option.lower(): option for option in options if len(option) <= _LONGEST}
    sought = str(word).lower()
    close = [folded[found] for found in difflib.get_close_matches(sought, _beside(sought, folded), n=3, cutoff=0.5)]
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    if len(options) <= 20:
        return f"Known: {', '.join(options) or 'none'}."
    return f"Known ({len(options)}): {', '.join(options[:20])}, ..."


def _beside(word: str, options: Iterable[str]) -> list[str]:
    """The options that are compared with a word: all of them, or of too many those that begin most alike."""
    ordered = sorted(options)
    if not ordered or len(word) > _LONGEST:
        return []
    most = _WORK // max(1, len(word) * max(map(len, ordered)))
    at = bisect.bisect(ordered, word)
    return ordered[max(0, at - most // 2 - 1) : at + most // 2 + 1] if len(ordered) > most else ordered


def unknown(noun: str, word: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that nothing answers to, with the near ones.

    Examples:
        >>> print(unknown("method", "lroa", ["lora"]))
        There is no method 'lroa'. Did you mean 'lora'?
    """
    return UnknownNameError(f"There is no {noun} {word!r}.", fix=near(word, known))


def _modules(room: str) -> list[str]:
    """The public module names of `petune.<room>`; `base` holds the contract, so it is no name."""
    package = importlib.import_module(f"petune.{room}")
    names = (info.name for info in pkgutil.iter_modules(package.__path__))
    return [name for name in names if name != "base" and not name.startswith("_")]


def names(room: str) -> tuple[str, ...]:
    """The names in a room (`"methods"`, `"tasks"`, `"metrics"`), those of other packages included.

    Examples:
        >>> "lora" in names("methods")
        True
    """
    own = [module.replace("_", "-") for module in _modules(room)]
    return tuple(sorted({*own, *(point.name for point in entry_points(group=f"petune.{room}"))}))


def find(room: str, name: str) -> type[Any]:
    """The class behind a name.

    Args:
        room: `"methods"`, `"tasks"` or `"metrics"`.
        name: with dashes or underscores.

    Raises:
        UnknownNameError: when nothing answers to the name.

    Examples:
        >>> find("methods", "lora").__name__
        'LoRA'
    """
    module_name = name.replace("-", "_")
    if module_name not in _modules(room):
        # petune's own names win: no other package can take the place of "lora".
        for point in entry_points(group=f"petune.{room}"):
            if point.name == name:
                return point.load()  # type: ignore[no-any-return]
        if ":" in name:
            if (imported := _imported(room, name)) is not None:
                return imported
            raise UnknownNameError(
                f"The {room.rstrip('s')} {name!r} is a class of a module that is not imported.",
                expected="petune imports nothing because a file says so.",
                fix=f"Import it first: import {name.partition(':')[0]}.",
            )
        raise unknown(room.rstrip("s"), name, names(room))
    module = importlib.import_module(f"petune.{room}.{module_name}")
    return the_class(module, room)


def the_class(module: Any, room: str) -> type[Any]:
    """The one public concrete class of a module that fulfils its room's contract."""
    contract = importlib.import_module(f"petune.{room}.base").CONTRACT
    found = [
        thing
        for label, thing in vars(module).items()
        if inspect.isclass(thing)
        and issubclass(thing, contract)
        and thing.__module__ == module.__name__
        and not label.startswith("_")
        and not inspect.isabstract(thing)
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must hold one public {contract.__name__}, it holds {found}")
    return found[0]


def name_of(room: str, thing: object) -> str:
    """The name under which `find(room, name)` gives back the class of `thing`.

    A class of no registered package is named `module:Class`; `find` then needs its module to be imported already.

    Examples:
        >>> from petune.methods.lora import LoRA
        >>> name_of("methods", LoRA())
        'lora'
    """
    cls = type(thing)
    if cls.__module__.startswith(f"petune.{room}."):
        return cls.__module__.rsplit(".", 1)[1].replace("_", "-")
    for point in entry_points(group=f"petune.{room}"):
        if point.value == f"{cls.__module__}:{cls.__qualname__}":
            return point.name
    return f"{cls.__module__}:{cls.__qualname__}"


def _imported(room: str, name: str) -> type[Any] | None:
    """A class that the program has imported already; a file's words never cause an import."""
    seen = [importlib.import_module(f"petune.{room}.base").CONTRACT]
    for cls in seen:
        if f"{cls.__module__}:{cls.__qualname__}" == name:
            return cls  # type: ignore[no-any-return]
        seen.extend(cls.__subclasses__())
    return None
