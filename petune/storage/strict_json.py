"""JSON that says no: duplicate keys, NaN and objects that would not come back are errors that name the place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from petune.errors import AdapterFileError


def dumps(manifest: Mapping[str, Any], *, source: str = "the manifest", indent: int | None = None) -> str:
    """Strict JSON: no NaN, no objects that would not come back.

    Raises:
        AdapterFileError: for a value that JSON cannot hold, with its key.
    """
    try:
        return json.dumps(manifest, allow_nan=False, ensure_ascii=False, indent=indent, sort_keys=True)
    except (TypeError, ValueError) as error:
        where = _culprit(manifest)
        raise AdapterFileError(
            f"{source} cannot be written as JSON: {where or error}.",
            expected="Strings, finite numbers, booleans, lists and mappings.",
        ) from error


def nulled(value: Any) -> Any:
    """The value with null in place of figures that are not finite: they tell of an adapter, and decide nothing.

    Examples:
        >>> nulled({"f1": float("nan"), "loss": 0.5, "seen": [1, float("inf")]})
        {'f1': None, 'loss': 0.5, 'seen': [1, None]}
    """
    if isinstance(value, Mapping):
        return {key: nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nulled(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def loads(text: str | bytes, *, source: str) -> dict[str, Any]:
    """Strict JSON of one object: no duplicate keys, no NaN; a byte-order mark is accepted.

    Raises:
        AdapterFileError: with the file, and the line where that is known.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"the key {twice[:80]!r} is there twice")
        return made

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON number")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(
            f"{source} is not valid JSON: {error}.", expected="The file as it was written.", fix="Save it again."
        ) from error
    if not isinstance(found, dict):
        raise AdapterFileError(f"{source} holds a {type(found).__name__}.", expected="A JSON object was expected.")
    return found


def _culprit(value: Any, path: str = "") -> str:
    """Where in a structure the value sits that JSON cannot hold."""
    if isinstance(value, Mapping):
        return next(
            (found for key, item in value.items() if (found := _culprit(item, f"{path}.{key}".lstrip(".")))), ""
        )
    if isinstance(value, (list, tuple)):
        return next((found for i, item in enumerate(value) if (found := _culprit(item, f"{path}[{i}]"))), "")
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path!r} is {value}"
    if value is None or isinstance(value, (str, int, float)):
        return ""
    return f"{path!r} is a {type(value).__name__}"
