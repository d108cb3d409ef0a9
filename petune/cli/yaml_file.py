"""A YAML file as plain values that know their lines, read strictly and by the rules of YAML 1.2.

PyYAML follows YAML 1.1, in which `no` is False, `010` is eight and `1e-3` is a text. Labels and learning rates are none
of these, so the words for numbers, truth and nothing are those of YAML 1.2's core schema. A key that stands twice, and
an alias, are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from petune.cli.usage import UsageError

Place = tuple[str | int, ...]
"""Keys and indices from the top of the file to a value."""


class _Core(yaml.SafeLoader):
    """Safe values only, and YAML 1.2's words for them."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # as PyYAML has it


_Core.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"~|null|Null|NULL|"), None)
_Core.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), None)
_Core.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)"), None)
_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan"
_Core.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_NUMBER), None)
for _resolvers in _Core.yaml_implicit_resolvers.values():
    _resolvers[:] = [(tag, re.compile(rf"(?:{rule.pattern})\Z")) for tag, rule in _resolvers]


def read(path: str | Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """What a YAML file holds, and on which line each of its values stands (from 1).

    Raises:
        UsageError: no such file, broken YAML, a key that stands twice, something else than `key: value` at the top.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", fix="petune init writes such a file.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text.") from error
    loader = _Core(text)
    lines: dict[Place, int] = {(): 1}
    try:
        node = loader.get_single_node()
        found = {} if node is None else _value(loader, node, (), lines, set(), path)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: {error.problem or 'this is no YAML'}.", expected="YAML.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML: {str(error).splitlines()[0]}.") from error
    finally:
        loader.dispose()
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds a {type(found).__name__}.", expected="Lines such as `epochs: 3`.")
    return found, lines


def _value(loader: Any, node: Any, place: Place, lines: dict[Place, int], seen: set[int], path: Path) -> Any:
    """One node as a plain value; the lines are noted on the way."""
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node, path)
    if id(node) in seen:
        raise UsageError(f"{path}:{node.start_mark.line + 1}: an alias repeats what stands here.", fix="Write it out.")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, one, (*place, i), lines, seen, path) for i, one in enumerate(node.value)]
    found: dict[str, Any] = {}
    for key_node, one in node.value:
        line = key_node.start_mark.line + 1
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
        if not key or key in found:
            what = f"{key!r} stands here a second time" if key else "a key is no word"
            raise UsageError(f"{path}:{line}: {what}.", expected="Each key once.")
        lines[*place, key] = line
        found[key] = _value(loader, one, (*place, key), lines, seen, path)
    return found


def _scalar(loader: Any, node: Any, path: Path) -> Any:
    try:
        value = loader.construct_object(node)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}:{node.start_mark.line + 1}: {node.value!r} cannot be read.") from error
    if value is not None and not isinstance(value, str | int | float | bool):  # a date, or bytes, by an explicit tag
        raise UsageError(f"{path}:{node.start_mark.line + 1}: {node.value!r} has the tag {node.tag!r}.")
    return value
