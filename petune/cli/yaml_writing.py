"""Settings as YAML, each knob below the line that tells of it."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def scalar(value: Any) -> str:
    """A value on one line; every YAML reads it back as it was.

    Examples:
        >>> scalar("adamw"), scalar("no"), scalar((1, 2)), scalar(None), scalar({"a b": 0.5})
        ('adamw', '"no"', '[1, 2]', 'null', '{"a b": 0.5}')
    """
    if isinstance(value, str | Path):
        text = str(value)
        return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else json.dumps(text, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {scalar(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if isinstance(value, float) and "e" in (text := repr(value)) and "." not in text:
        return text.replace("e", ".0e")  # YAML 1.1 takes a number without a point for a text
    return json.dumps(value)


def text_of(settings: Mapping[str, Any], told: Mapping[tuple[str, ...], str], head: Sequence[str] = ()) -> str:
    """The file.

    Args:
        settings: values, and sections of values.
        told: place -> what stands above it.
        head: lines at the top.
    """
    lines = _comment(" ".join(head), "") if head else []
    for key, value in settings.items():
        lines += ["", *_comment(told.get((key,), ""), "")] if told else []
        if isinstance(value, Mapping) and "name" in value:
            lines.append(f"{key}:")
            for inner, one in value.items():
                lines += _comment(told.get((key, inner), ""), "  ")
                lines.append(f"  {inner}: {scalar(one)}")
        else:
            lines.append(f"{key}: {scalar(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _comment(text: str, indent: str) -> list[str]:
    first = f"{indent}# "
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=first, break_long_words=False) or []
