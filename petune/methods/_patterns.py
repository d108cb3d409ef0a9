"""Regular expressions in a peft configuration, made into names before peft, whose own matching can hang, sees them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from petune.errors import ConfigError
from petune.lookup import near
from petune.patterns import matcher

_WORDS = ("all-linear",)
"""What peft reads as a word of its own, not as an expression."""
_NAME = re.compile(r"\^?[\w.\\-]+")
_MODULES = ("target_modules", "exclude_modules", "feedforward_modules")


def refuse_expressions(fields: Mapping[str, Any]) -> None:
    """Refuses regular expressions in a configuration from a file.

    Raises:
        ConfigError: with the field; files hold names, because an expression of a stranger can mean anything.
    """
    for field in (*_MODULES, "layers_pattern"):
        value = fields.get(field)
        if isinstance(value, str) and value not in _WORDS and not _NAME.fullmatch(value):
            raise ConfigError(
                f"{field}={value[:80]!r} is a regular expression.",
                expected="A list of module names.",
                fix=f"Load the adapter in peft, list the modules in {field}, and save it again.",
            )
    for field, patterns in _keyed(fields).items():
        for key in patterns:
            if not _NAME.fullmatch(str(key)):
                raise ConfigError(
                    f"{field} has the key {str(key)[:80]!r}.",
                    expected="Module names, no expressions.",
                    fix=f"Load the adapter in peft, list the modules in {field}, and save it again.",
                )


def settle(config: Any, root: nn.Module) -> bool:
    """Puts what each expression of a configuration means in this model in its place; steps are bounded.

    Args:
        config: a `peft.PeftConfig`, changed in place.
        root: the model.

    Returns:
        Whether keys of a mapping were expressions: they now stand for modules that may be no targets.

    Raises:
        ConfigError: an expression that matches nothing, or takes too many steps.
    """
    paths = [path for path, _ in root.named_modules() if path]
    for field in _MODULES:
        value = getattr(config, field, None)
        if isinstance(value, str) and value not in _WORDS:
            matches = matcher(value)
            hits = [path for path in paths if matches(path)]
            if not hits and field != "exclude_modules":
                raise ConfigError(f"{field}={value!r} matches no module.", fix=near(value, _endings(paths)))
            # An expression still, so that peft takes it as it was meant; an alternation of names cannot hang.
            setattr(config, field, "|".join(map(re.escape, hits)) or "(?!)")
    layers = getattr(config, "layers_pattern", None)
    for name in [layers] if isinstance(layers, str) else layers or ():
        if not _NAME.fullmatch(str(name)):
            raise ConfigError(f"layers_pattern={name!r} is a regular expression.", expected="The name of a list.")
    expanded = False
    for field, patterns in _keyed(vars(config)).items():
        if not all(_NAME.fullmatch(str(key)) for key in patterns):
            setattr(config, field, _by_path(field, patterns, paths))
            expanded = True
    return expanded


def _keyed(fields: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """`rank_pattern`, `alpha_pattern` and their like: mappings whose keys peft takes for expressions."""
    return {name: value for name, value in fields.items() if name.endswith("_pattern") and isinstance(value, Mapping)}


def _by_path(field: str, patterns: Mapping[str, Any], paths: list[str]) -> dict[str, Any]:
    """Path -> value of the first key that matches it, as peft takes them."""
    found: dict[str, Any] = {}
    for key, value in patterns.items():
        matches = matcher(rf"(.*\.)?({key})")
        hits = [path for path in paths if matches(path)]
        if not hits:
            raise ConfigError(f"{field} has the key {key!r}, which matches no module.", fix=near(key, _endings(paths)))
        for path in hits:
            found.setdefault("^" + re.escape(path), value)
    return found


def _endings(paths: list[str]) -> list[str]:
    return sorted({path.rsplit(".", 1)[-1] for path in paths})
