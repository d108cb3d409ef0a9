"""The knobs of a dataclass as a list: name, annotation, default, and the line of its docstring that tells of it.

Options, commented files and schemas are all made from this list, so a new knob is in all of them by itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, NamedTuple, get_type_hints

_ENTRY = re.compile(r"(?P<names>\w+(?:, \w+)*): (?P<text>.+)", re.DOTALL)
_ELSEWHERE = re.compile(r"see `\w+`\.?")


class Knob(NamedTuple):
    """One knob.

    Args:
        path: its place in a file, such as `("method", "rank")`.
        hint: its annotation; `Any` where that names something that only a type checker knows.
        help: what its docstring says of it.
        room: whose it is, for headings.
    """

    path: tuple[str, ...]
    hint: Any
    default: Any
    help: str
    room: str

    @property
    def option(self) -> str:
        """Its option on the command line.

        Examples:
            >>> Knob(("method", "init_rank"), int, 12, "", "adalora").option
            '--method.init-rank'
        """
        return "--" + ".".join(self.path).replace("_", "-")


def knobs_of(cls: type, path: tuple[str, ...] = (), room: str = "") -> list[Knob]:
    """Every knob of a dataclass, in the order in which the class names them.

    Examples:
        >>> from petune.config import TrainConfig
        >>> knobs_of(TrainConfig)[1].path, knobs_of(TrainConfig)[1].help
        (('epochs',), 'passes over the training rows.')
    """
    hints, told = _hints(cls), told_of(cls)
    return [
        Knob((*path, field.name), hints.get(field.name, Any), _default(field), told.get(field.name, ""), room)
        for field in dataclasses.fields(cls)
        if field.init
    ]


def told_of(cls: type) -> dict[str, str]:
    """Knob -> what the docstrings of the class and of those below it say; the nearest that says something wins."""
    told: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        told |= arguments(inspect.cleandoc(one.__dict__.get("__doc__") or ""))
    return told


def arguments(docstring: str) -> dict[str, str]:
    r"""The lines below `Args:`, by name, each as one line.

    Examples:
        >>> arguments("Boils.\n\nArgs:\n    litres, pints: how much;\n        never none.\n\nRaises:\n    Steam: hot.")
        {'litres': 'how much; never none.', 'pints': 'how much; never none.'}
    """
    entries: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if not line.startswith(" "):
            inside = line.strip() == "Args:" or (inside and not line.strip())
        elif inside and line.startswith("        "):
            entries[-1:] = [f"{entries[-1]} {line.strip()}"] if entries else []
        elif inside:
            entries.append(line.strip())
    matches = [match for entry in entries if (match := _ENTRY.fullmatch(entry))]
    return {
        name: match["text"] for match in matches if not _ELSEWHERE.fullmatch(match["text"])
        for name in match["names"].split(", ")
    }  # fmt: skip


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError:
        return {}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default
