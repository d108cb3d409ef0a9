"""Names of modules in peft's configuration, met by endings: `query` stands for `encoder.layer.0.attention.self.query`.

A file may list any number of them, so a site looks up its own endings and never walks through a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from petune.errors import AdapterFileError

MOST_ENTRIES = 100_000
"""Entries of a pattern: as many as an adapter file has tensors at most."""
_NAME = re.compile(r"[\w.-]+")


def endings(path: str) -> Iterator[str]:
    """A path, and what follows each of its dots.

    Examples:
        >>> list(endings("layer.0.query"))
        ['layer.0.query', '0.query', 'query']
    """
    at = 0
    while True:
        yield path[at:]
        dot = path.find(".", at)
        if dot < 0:
            return
        at = dot + 1


class Patterns:
    """`rank_pattern` or `alpha_pattern`: the first key that is a site's path, or an ending of it, decides.

    peft takes the keys for regular expressions. A file's expressions are not run (they can hang), so a key with
    more than names and escaped dots in it is refused where it would have its turn.

    Args:
        said: peft's configuration.
        field: which of the two.

    Raises:
        AdapterFileError: more entries than any adapter has sites.

    Examples:
        >>> Patterns({"rank_pattern": {"query": 4}}, "rank_pattern").value("layer.0.query", 8)
        4
    """

    def __init__(self, said: Mapping[str, Any], field: str) -> None:
        given = said.get(field) or {}
        if len(given) > MOST_ENTRIES:
            raise AdapterFileError(f"{field} has {len(given)} entries.", expected=f"At most {MOST_ENTRIES} are read.")
        self._field, self._odd = field, ""
        self._whole: dict[str, tuple[int, Any]] = {}
        self._ends: dict[str, tuple[int, Any]] = {}
        for place, (key, value) in enumerate(given.items()):
            plain = str(key).removeprefix("^").replace("\\.", ".")
            if not _NAME.fullmatch(plain):
                self._odd = str(key)
                break  # nothing behind it has a turn: who comes so far is refused
            self._whole.setdefault(plain, (place, value))
            if not str(key).startswith("^"):
                self._ends.setdefault(plain, (place, value))

    def value(self, path: str, otherwise: Any) -> Any:
        """What a site has.

        Raises:
            AdapterFileError: no name before an expression is the site's.
        """
        found = [self._ends[ending] for ending in endings(path) if ending in self._ends] if self._ends else []
        found += [self._whole[path]] if path in self._whole else []
        if found:
            return min(found, key=lambda entry: entry[0])[1]
        if self._odd:
            raise AdapterFileError(
                f"{self._field} has the key {self._odd[:80]!r}.",
                expected="Module names, no regular expressions.",
                fix=f"Load the adapter in peft, name the modules in {self._field}, and save it again.",
            )
        return otherwise
